#!/usr/bin/env bash
# What `gpt-jax launch` asks of every host of a slice. It lies in the copy of the checkout there.
#
#   host.sh install         make .venv in the copy, and install the package for TPUs and buckets
#   host.sh stop            end what runs, once it has saved
#   host.sh start WORD...   run a command that outlives this session, instead of one that still runs
#   host.sh status          print gpt-jax-status HOST none|running|gone|ended EXIT COMMAND, as the
#                           two above do when they have done their work
#   host.sh log LINES       the last lines that the command wrote
#
# A command holds the lock for as long as it, or a process of its, lives: the kernel drops it with
# the last of them, after a crash or a reboot too, which a file with a process id would not tell.
set -euo pipefail
copy=$(cd "$(dirname "$0")/../.." && pwd)
state=$HOME/gpt-jax-run
mkdir -p "$state"
verb=$1
shift

tell_status() {
  local word="none - -"
  if [ -e "$state/command" ]; then
    word=running
    if flock -n "$state/lock" true; then word=gone; fi
    # Asked last: it is written while the lock is held.
    if [ -e "$state/exit" ]; then word="ended $(cat "$state/exit")"; else word="$word -"; fi
    word="$word $(cat "$state/command")"
  fi
  echo "gpt-jax-status $(hostname) $word"
}

# Takes the lock, for as long as this script lives.
stop() {
  exec 9>>"$state/lock"
  if ! flock -n 9; then
    # It saves and ends by itself; what does not is killed.
    kill -TERM -- "-$(cat "$state/pid")" || true
    flock -w 120 9 || {
      kill -KILL -- "-$(cat "$state/pid")" || true
      flock -w 30 9
    }
  fi
}

case $verb in
install)
  # The images' Python is Ubuntu 22.04's, 3.10; uv brings a newer one
  # (docs.astral.sh/uv/getting-started/installation).
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  cd "$copy"
  uv venv --python 3.12 .venv
  uv pip install --python .venv/bin/python '.[tpu,gcs]'
  tell_status
  ;;
stop)
  stop
  ;;
start)
  stop
  rm -f "$state/exit" "$state/pid"
  printf '%s\0' "$@" | sha256sum | cut -c1-12 >"$state/command"
  nohup setsid bash "$copy/gpt_jax/launch/host.sh" hold "$@" </dev/null >>"$state/log" 2>&1 &
  exec 9>&-
  until [ -s "$state/pid" ]; do sleep 0.05; done
  tell_status
  ;;
hold)
  # A handler that does nothing: the signal ends the command, and its exit status is still kept.
  trap : TERM
  echo $$ >"$state/pid"
  echo "$(date -u +%FT%TZ) $*"
  cd "$copy"
  export PATH="$copy/.venv/bin:$PATH"
  status=0
  "$@" || status=$?
  echo "$status" >"$state/exit.partial"
  mv "$state/exit.partial" "$state/exit"
  ;;
status)
  tell_status
  ;;
log)
  tail -n "$1" "$state/log" 2>/dev/null || true
  ;;
esac
