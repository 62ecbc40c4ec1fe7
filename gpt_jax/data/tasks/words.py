"""English words, the commoner the earlier.

The 3,000 most frequent of 5 to 14 small letters in the documentation strings and comments of the
standard library of CPython 3.11, of those that three of its files have. (The paper takes 10,000.)
They stand here and are not counted anew, so that the questions that are made of them are the same
with every version of Python.
"""

_LISTED = """
object class string value which function module method return default should number argument
instance given other called exception first arguments command bytes using values methods control
current objects specified there header files returned returns attribute directory message names
version before tuple after widget error result empty defined option dictionary where lines strings
source event raise encoding context either characters sequence server attributes import following
functions support process character order options passed optional types because already format
output instead raised implementation block without available integer statement found classes example
package start information single parameter otherwise always check except until these address input
filename created between named create socket since stack window standard containing possible
response being thread element match variable keyword expression through added stream calls their
whether would namespace frame point defaults about index different section contains state handler
items length needed buffer level protocol request position prefix turtle pattern target errors
interface mapping provided variables special handle child parent modules search binary connection
change parser instances system another cannot write subclass entry present operation parameters
false headers original override extension local global means elements calling multiple contain could
program while directories documentation reference table compatibility field itself those access
encoded raises second width exist manager matching numbers right running corresponding future bound
library internal still valid above commands executed ignore within constructor newline whitespace
allow below changes descriptor existing directly currently exists syntax generated unless common
archive avoid callable codec implement necessary equivalent letter parse close including build
iterable space events least range timeout environment removed representation matches parsing
configuration member might include negative operations remove sequences specific written digits
display equal group provides queue details fields trailing never required script compiler dialog
allows supported appropriate float based cache exceptions supplied tests under shared callback
closed custom selection useful actually define identifier iterator cases reading relative underlying
changed encodings flags implemented coroutine later normal traceback occurs regular provide
application count during charset definition execution tuples according replace anything lists pickle
updated additional break clause comparison logging record times contents interpreter previous three
behavior client needs resource threads extra messages setting takes operand selected references
handling offset paths arbitrary associated convert really small debugger rather supports entries
imported decimal invalid locale spaces writing actual allowed distribution document ignored leading
results separator simple content explicitly https integers nothing param place python mailbox
possibly exactly subprocess automatically comment considered every literal members returning suite
versions complete config action specifies async converted correct generator handlers pairs positive
whose caller extensions similar stored limit precision representing specify transport again platform
probably around expected absolute breakpoint memory numeric positional widgets button cancelled
starting theme blocks omitted assignment though abstract chunk color compression fails finally
followed logger seconds included alias examples expressions particular subclasses usage works
wrapper blank continue conversion described displayed immediately makes opcode rules style token
exponent formatting overridden runtime something appear better column handled platforms structure
words executable print screen signal yield compare creating formatted globals initial condition
happen insert starts various assigned defines final replaced shell decoded delete difference issue
policy registered requires reserved against boolean canvas cookies determined indicates inside
longer meaning scheme treated wrapped filenames master nested pathname testing warning compile
everything frames processes resulting builtin constants entire generic includes missing separate
taken update compiled container ensure maximum accept decode decorator determine docstring libraries
opened store temporary usually waiting beginning cursor factory image known location passing prevent
scope algorithm assert assume height kwargs signature static active deleted deprecated implements
intended language binding description operator represents effect gives received annotations cause
creation invoked loader total unknown backwards compute escape exact large lookup modified parts
points public recent represent requests split broken debugging depending enough remaining software
together virtual chars children email indicating modify patterns registry release setup slice trace
accepted comments complex creates debug descriptors double magic processing specification strict
subject addresses browser checking checks cookie extended fixed generate lineno month occur simply
status evaluated feature handles indentation installed loaded short sorted statements title mutable
outside purpose stdout stuff unchanged attempt follows install metaclass parsed proxy random several
systems helper literals notice quote requested addition copied derived doctest network shutdown
coordinates digit failed opcodes suitable unicode apply audio await indicate iteration quoted
correctly database failure having larger occurred problem semantics typically boundary checked
component doing follow indent normally property unique yields background definitions execute
explicit indices interpreted likely packages printed prior require rounding started things windows
backward built depends domain giving happens listed metadata mouse priority prompt reset separated
settings specifying thing adding aliases behaviour completion desired detail encode focus keywords
label mappings password patch quotes register report servers tasks accessed appears becomes certain
going looking resources strip successful authentication chunks embedded filesystem general
initialized ready reason scripts stdin working amount bytecode compatible guaranteed inherit payload
properly refer replacement searched subset assumed basic become delay htest important looks others
related sample suffix angle asynchronous barrier clear contained cycle editor nodes owner processed
proper properties query sockets topmost appended callbacks drive immutable interactive latter leave
making operators recursive whole append direction however installation lower perform remote symbolic
timezone typing actions array breakpoints compared compressed controls cover datetime filter force
greater groups locals marked padding pragma saved sense alive causes components connections counter
functionality generally optimization permission reached records select stderr wrong caught closing
counts decoder direct floating hashable identical identified optionally previously warnings buffered
collection comparisons copyright division external finished fullname hierarchy mechanism older
opening reader symbols therefore threading upper applied conditions differences frozen imports
inherited interesting machine power private purposes readline speed symlink terminated whenever
copies declaration executing faster inserted invoke newlines prints recursively reverse symlinks
across anchor anyway bindings builds computed connected continuation decoding destroyed forward
interfaces links matched notation problems produce scheduled significant silently sources terms
trying visible whatever along applications backslash blocking cancel colon consists dicts displays
further legacy logical readable signals smaller symbol timer worker wrapping annotation breaks
cached circular clean cleanup coroutines efficient escaped family heading often perhaps precedence
reasons recommended represented retrieved rounded skipped supporting terminal accepts almost among
building decorated dictionaries duplicate earlier enable enabled ending fallback finite formats
individual inputs linker modification parentheses partial pickling pointer recognized replacing
resolved respectively selector square successfully verbose writes arithmetic compound cycles
destination disabled encountered filters levels limited mapped modulo neither occurrence opener
pending recursion regex resolution shown slashes subsequent subtype users writable although builtins
canonical chain codes completed constructed defects easier figure identifiers incomplete lambda
ordered performed prefixes remain routine sending shape template tries unsigned account applies
brackets bytearray calculated consider consistent convenience copying corresponds distributions
docstrings escapes expanded features formal grammar higher hostname implementing little namespaces
native nearest plain polygon preceding printing responses separators session slash states structures
wheel alternative begin codecs connect delta dotted evaluation fragment framework garbage identity
indicated internally invocation keyed lowercase manifest maybe ordering overrides produced produces
providing regardless sometimes streams treat undefined unexpected wants zeros article assignments
clients coefficient columns converting detected drawing entered exited finder floats formatter forms
futures guard importing initialization longest middle minus necessarily overriding passes protocols
reads reported sends unittest watcher acquired asyncio comparing declarations declared defect
disable dummy duplicates evaluate executor expect fileobj front guess highest ignoring implies
infinite instantiate issues minimum model multipart nonzero obtained parsers performance restore
round share stripped succeed targets usable wraps writer affect allowing ascii attached bitmap
buttons chosen commonly configured constant consume converts defining device dispatch equality
extract filled graphics logic macro moved newer overhead persistent portion potential primary quite
releases relevant security seems singleton tells themselves underscore assuming attrs bracket
changing comma construct consumed delimiter describing especially evaluates geometry implicit
instantiating invokes loading localhost marks matter newly paragraph places preferred referenced
refers replaces service signed someone terminates track uncompressed unpickling accessible assign
bases buffering buffers checker concrete coordinate depend discard dynamic extracted foreground
highlight importlib instruction keyset letters loops normalized overlapped perky phrase quiet slots
steps success summary suppress tokens transfer translated undocumented validate align attempts
beyond browsers cancellation central colors convention decorators exits folding fully getting holds
indented initialize iterate keeps mostly params pixels placed preserved printable programs raising
redundant searching sections slicing supply think timestamp usual utility world alpha automatic
backslashes begins bitwise bottom boundaries calendar capture catch completely consisting customize
customized defaulting documented early failures generating generators identify infinity insertion
leaving legal looked managers manually marker outer pixel profiler released remainder sentinel shows
smallest subdirectories suffixes taking tested tkinter unavailable unlike workers years approach
approximation arrow avoids category clock collect collected combination complicated console
containers convenient corner debugged decide describe descriptions discarded enclosing endian enter
executes hence inheritance instantiated keeping minimal occurrences permissions predicate quotation
routines specifier subclassing subscription succeeds switch transformed triggered truncated typed
universal accepting alone augmented caused channel choose collections comes compliant concatenation
contexts determines dynamically extend identifying implied interval introspection linear locked
management meant mentioned mtime offsets optimize origin overwritten popup preserve relief
returncode schemes slightly statistics strictly units viewer adjusted closest configure daemon
detailed detect distinguish documents drawn emulate ensures eventually expansion finish fraction
granted intermediate interpretation knows layout linking major managed moves ordinary outputs
overflow popped profile reasonable removes reporting restrictions retained rights safely sensitive
specialized substring super supposed tables third tried truth unlocked updates username weekday
worth zipfile applicable assumes calculate channels circle classmethod compilers dependency differ
distribute effective efficiently entity epoch expand expressed fetch former gettext grouping
hexadecimal illegal inspect invariant iterables locks namedtuple numerically pointing positions
prevents pydoc ranges receiving reduce repeated repeatedly reply responsible resume semaphore stops
storing stripping subclassed terminator tracebacks trigger triple unpacking unsupported yielding
adjust alternate appending architecture aware blocked branch certificate choice cleared clicked
counted course deletion dependent easily encoder entities expensive fault finalizer forget fractions
guarantee inherits invoking listing located macros modifier nonlocal packed pickled plist
possibility potentially prefixed product remains removing serialized startup struct sysconfig
toplevel translate trick turned twice typical unary unused variance variant verify vertical
alignment alter archives attempted basis bogus bootstrap breaking bunch compact conditional conform
consistency construction customization delimiters dependencies elsewhere enclosed entirely export
folder frequency generation handshake hereby hidden horizontal independent indicator inline
inserting interpolation introduced keybindings largest linesep linked maintain markup milliseconds
modifiers movement nicer obsolete octal operating parents preceded pressed pushed quoting resolve
selects shift sizes sorting spawn temporarily terminate tools turtles unspecified accessing affected
anymore appropriately border compares consecutive continues controlled correspond datagram delegate
digest distutils environ exclusive exiting expects handy hardware hello ignores images implicitly
indirectly instantiation issued kernel limits meaningful membership menus minor mixed notified
obtain octets operate originally packet padded pages pertaining placeholder prepare probability
proto proxies receive reliable retrieve scale separating simplify snapshot subparts subpattern
suppressed synch towards transition turns understood advertising allocated animation answer anywhere
author boxes candidate closer coding commas compilation completes constructs curses deadlock
designed dialogs differently distance distributed emitted established falls finders flush happened
hashing helps history holding imaginary indexes intervals kinds layer lexical logged lookups
machinery markers maxlinelen merge numerical overlap people period piece pipes popular populated
portable presence primarily propagate propagated rational reach recognize reject repeat runner saves
separately series similarly situation strong subtract sufficient syscall transparent triples
uppercase validation whereas wrappers yielded acquire advantage affects ambiguous awaited behaves
belong binds blanks caching center click closes completions computation concatenated counting
delayed divide endings engine explanation exposed finding fractional frozenset generates helpers
helpful hooks incorrect indexed indexing indirect initially inner intraline keybinding malformed
manipulation natural notion numbering obvious overview physical please posix preserves pressing
processor protect publicity pyshell qualified reports respect roughly segments semaphores shortcut
specifically submodules subpart transformation unbound underline unquoted waiter winner accesses
anonymous arbitrarily behave builder callables callers clone comprehension compress contributed
controlling deleting denominator depth differs enables exclude exhausted existence expires forever
formed glibc graph guarantees imply incremental infinities initializer lengths mainly microseconds
modes moment multiplication naming notification oldest overwrite partially pathnames pieces prefer
presumably pretty reflect registering remember renamed resolving restart restriction retry sampling
scrollbar sensible shallow sigma situations splits thereof toggle tracing translation underscores
unmodified unnecessary updating white worry algorithms atomic attempting binascii black capability
captured careful closure communication compresslevel computing cross daylight dealing delimited
derive destroy excluding factor fairly fetched fixes floor flushed funcname getattr heuristic
interaction intercept introduce isinstance killed knowledge labels leftmost login modifies mutated
nesting nonnegative octet ordinal parenthesis parses patched practice prepended primitive quickly
rectangle redirect redirected reduces reentrant satisfy scrollbars semantically serve shall shorter
showing signs spawned stopping stores submodule substituted substitutions syntactic syntactically
terminating texts throw timed topics tracker unable understand unusable urllib waits weakref
wildcard abort absent acceptable advanced ahead altered appearance appeared asked asynchronously
bodies bounded bounding calculation canceled causing choices combinations combined coming compiles
conversions cumulative deprecation descendant descendants describes deviation distinction domains
driven duplicated editing effort essentially exceed excess executables expat expose extends
extraction favor finalization hierarchical hints hours immediate inclusion incoming incompatible
inconsistent incorrectly increase insensitive interior iterated joining limitations listbox
listening loaders lowest maintained manipulate maxsize meets midnight modifying multiline nbytes
notes official outcome parallel pickles producing programming progress prompts putting recurse
reflected region removal repeats requirement resets retain retrieval reuse samples sanity scheduling
scrolled serialize shorthand simpler simplest skipping skips solution somewhat somewhere speedup
splitting spurious subdirectory superclass surrounding synchronous textual thousands tilde timing
topic traces tracking transaction uname unpack unset utilities varies views workaround worst
accordingly additionally adjacent aliased applying arrays aspects assertion attachment awaitable
basename bounds bracketing capabilities cells certificates chrome circumstances clears compiling
compliance conjunction consist consumes contiguous continued dashes dates deals declare decoders
definitely detection directives dirname discovered distinct driver duration efficiency emulation
endianness enhanced exceeds extent fancy filling filtered finalized forking friends guessed idlelib
inclusive informational inheriting inserts installing instructions integral interested interrupted
inverse joined keyboard keyfile listen literally locally locations mainloop marking matrix nearly
normalization occurring opens operates opposed overwriting packing panes parens particularly pointed
prepared preprocessor proposed pushes question reaches receives reduced refused regexp relatively
rename reversed saving secure shutting signatures spell stopped subtle subtraction succeeded
surrounded themes throws traditional transmission unhashable union vector wanted watch wishes wrote
zeroes abbreviated abstraction adapted aligned ambiguity ancestors anyone apart approximate attacks
average belongs benefit bother braces browse bypassed caches carefully carry centered chance clearly
clicking clipboard collapse combine combining comprehensions compressor consequence continuing
converter cyclic dangling datatype decodes decompressor denote detached directive discussion
displaying dragging eliminating ellipsis ended enforce envelope equals errno evaluating expecting
explained exports facility failing filtering finds flushing folded forces forkserver forth fredrik
gamma gather green heavily hosts identification identifies ignorable incremented informative
injection intact intentionally interactively internals involve involved involving iterating
iterators jumps launching linecache localtime locator locking manages mandatory matters maximal
measure merged mimic minimize mixin modifications mount moving mutate mutex naive opposite optimized
overall pathlib performs phase precede precise preference presented preserving press proceed purely
pyexpat qname queued queues recently recorded recreate redefine referred referring reload
repetitions requiring respective reused rightmost safety seeking segment sendfile sequential
signalled simultaneously slower sophisticated sorts sound spacing specifications standalone storage
styles subscript subsequently tabwidth timeouts toolkit transports trees triggering unambiguously
unencoded unfinished uniformly unpacked unrelated variants versa visual waited waste weight zones
aborted advance afterwards allocation annotated appends archiving assumption assumptions atexit
attach authorization authors backup behind besides bypass catching categories certfile classic
coerce collapsed collector complain composite configurable confused confusing confusion connecting
const consumer conventions coverage crash ctypes deemed delegator deliberately delim design
desirable determining difficult disabling disposition ditto edited effectively effects emits
encrypted encryption endpoint ensuring exceeded exclusively exported extracts extras extreme
facilities falling fashion fastest feeding flexible fresh greeting hopefully human hyphen impossible
increasing insofar interpret intrinsic languages leaves leftover license limitation loads lowercased
magnitude maintaining maintype manage managing manipulating manner mimics minidom mutually ndigits
noise offending owned parties permitted possibilities predefined predicates preferences prepend
proceeds protected quadratic querying quick ratio redirection relationship reliably relies remembers
requirements respond retrieves rotate scroll serialization serves signify similarity simplified
solely spawning stable stamp stdlib streaming substitute subtree suites surrogate synonym
termination thrown treatment truncate truncating understands uniquely unlink unreadable unregister
unsafe wakeup whence wildcards writeframesraw abbreviations ability accurate accurately achieve
activate activity additions adhere agree alert allowable alternating alternatives analysis basically
believe bootstrapping boring brief bundled bureaucracy calculating capable capturing chaining claim
clearing clever coerced coercion collecting completing comply concurrent configurations configuring
conflict conflicting conflicts constructors contrast curly decrement deletions delivery destructor
detects developed diagram discussed draft drives dropdown dropped dunder eliminate embed encounter
environments estimate exclamation explain express factors filelist filesystems finishes finishing
fnmatch forbidden functools gathered greedy grouped harmless hasattr hashlib hiding highlighting
hitting icons improve improved increases increment incrementing indication indicators inferred
initialised initializing insertofftime inspired installs interprets invisible invocations latest
launch launched locating lookahead marshalling meanings minutes mismatch misrepresented monitor
mutual nonempty normalize notify observed obtaining obviously onerror opaque overloaded overwrites
periods permanently phrases populate powerful practical predictable prime programmer project
protection queries rarely reachable reaching readonly reduction relations rendered repository
reproduce reraise resetting responsibility resumes retrieving rewrite rotation scanned scanning
schedule scrollable searches seekable selecting sharing shortest simulate specially specifiers
stacking staticmethod stats strategy strongly submit submitted substitution substrings successively
supplying suppose suspended switches tabsize thanks transform transient transitions traversing
unambiguous unbind unbuffered undefine undone unescaped unlimited unparsed unreachable unrecognized
verified viewing weird yourself accelerator accumulate accumulated acquiring advancing advertise
allocate alphanumeric annotate apparently argparse arranges asking business bytestring carriage
certainly charsets chdir choosing classmethods coded colorizer compat compensate complement computer
concept concerned constraints constructing consult consuming contrarily couple covered covers
critical darwin decides decompressed decremented deferred deletes despite developer diagnostic
dialogues difflib directions disappear discover dispatched doctype drain drops eight emitting
emptied encapsulated entering enters establish estimated everywhere examine examined excluded
expectations expired exposes extensible extracting familiar filepath forked formula freed freely
functional gotten grows hacked happy hardcoded harder hardlink honored hyphens imposed intent
interest interrupt introduces isdst keycode leader lenient liable likewise listener lives looping
losing maintenance manipulated mathematical measured memoryview merely miscellaneous mixing modal
mutability newest nicely normalizing normpath obscure offer onwards ordinals ourselves outfile party
patching perfectly performing person picklable placeholders ported portions positioned predecessor
preexisting preventing production published punctuation purelib races radiobutton recipients
recognizes recommends reconstruct reformatted rejected relied reopen reparse restored restores
restrict rewritten roots route satisfied schedules searchengine seeing semicolon separates
setuptools seven
"""
WORDS = tuple(_LISTED.split())
