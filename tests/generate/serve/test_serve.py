"""The server as OpenAI's own client meets it, and as those do that mean it no good."""

import asyncio
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import openai
import pytest
import uvicorn
from random_run import MODEL, letters_params, write_random_run
from tiny_run import finish, start

from gpt_jax.data import chat
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.generate.serve import slots as programs
from gpt_jax.generate.serve.api import Limits, Served
from gpt_jax.generate.serve.app import make_app
from gpt_jax.generate.serve.engine import Engine
from gpt_jax.generate.text import generate
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling

PARAMS = letters_params()
BYTES = ByteTokenizer()
LIMITS = Limits(body=5000, prompt=120, tokens=150, seconds=20.0, texts=4 + 60)
HI = [{"role": "user", "content": "hi"}]


class Thread:
    """A server in a thread of this process, and clients of it."""

    def __init__(self, limits=LIMITS):
        self.engine = Engine(MODEL, PARAMS, 257, slots=4, queue=limits.texts - 4)
        self.engine.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        app = make_app(self.engine, Served("tiny", MODEL, BYTES, limits), "127.0.0.1")
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0}
        self.client = openai.OpenAI(**self.settings)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.engine.close()
        assert not self.thread.is_alive()

    def write(self, prompt="once", **options):
        return self.client.completions.create(
            model="tiny", prompt=prompt, **{"temperature": 0, "max_tokens": 12} | options
        )

    def chat(self, messages=HI, **options):
        return self.client.chat.completions.create(
            model="tiny", messages=messages, **{"temperature": 0, "max_tokens": 12} | options
        )

    def becomes_idle(self, seconds=5.0):
        """Whether no slot is taken and nothing waits, within that time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"{self.url}/health") as answer:
                counts = json.load(answer)
            if counts["active"] == counts["waiting"] == 0:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture(scope="module")
def server():
    server = Thread()
    yield server
    server.stop()


@pytest.fixture
def slow(server, monkeypatch):
    """The server, whose model takes 40 ms for a step: 150 tokens last six seconds."""
    step = server.engine._step
    monkeypatch.setattr(
        server.engine, "_step", lambda *arguments: time.sleep(0.04) or step(*arguments)
    )
    return server


def said(prompts, new=12, how=None, seed=0):
    """What `gpt-jax generate` says to each prompt, by default the likeliest."""
    how = how or Sampling(temperature=0)
    turns = generate(MODEL, PARAMS, BYTES, prompts, max_new_tokens=new, how=how, seed=seed)
    return ["".join(pieces) for pieces in zip(*turns, strict=True)]


@pytest.fixture(scope="module")
def likeliest():
    """The likeliest text after "once" and in the chat HI, from one batch."""
    return said(["once", chat.render(HI)])


def test_a_completion_is_the_text_of_generate(server, likeliest):
    answer = server.write()
    (choice,) = answer.choices
    assert choice.text == likeliest[0]
    assert len(set(choice.text)) > 3  # or the test says little
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("length", 0, None)
    assert answer.object == "text_completion"
    assert answer.model == "tiny"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 4,
        "completion_tokens": 12,
        "total_tokens": 16,
    }


def test_a_chat_is_the_text_after_the_template(server, likeliest):
    """The same that training renders, which no message can forge."""
    answer = server.chat()
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", likeliest[1])
    assert answer.usage.prompt_tokens == len(chat.render(HI))
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    again = server.chat([{"role": "user", "content": parts}])
    assert again.choices[0].message.content == likeliest[1]


def test_a_stream_adds_up_to_the_whole(server, likeliest):
    """A completion, and a chat, whose first part says who speaks and whose last why it ends."""
    parts = list(server.write(stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts[:-1]) == likeliest[0]
    assert len(parts) > 8  # it comes token by token
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 2) + [
        "length"
    ]
    assert parts[-1].choices == []
    assert parts[-1].usage.completion_tokens == 12
    assert len({part.id for part in parts}) == 1
    parts = list(server.chat(stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[0].object == "chat.completion.chunk"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == likeliest[1]
    assert parts[-1].choices[0].finish_reason == "length"


def test_a_stop_string_ends_the_text_before_it(server, likeliest):
    """One, and several, in the middle of the text; streamed, no part of it is shown."""
    text = likeliest[0]
    stop = text[5:8]
    cut = text[: text.index(stop)]
    assert server.write(stop=stop).choices[0].text == cut
    (choice,) = server.write(stop=["#", stop], logprobs=0).choices
    assert (choice.text, choice.finish_reason) == (cut, "stop")
    assert choice.logprobs.tokens == list(cut)
    parts = list(server.write(stop=[stop, "nothing"], stream=True))
    assert "".join(part.choices[0].text for part in parts) == cut
    assert parts[-1].choices[0].finish_reason == "stop"


@pytest.mark.slow
def test_several_texts_of_a_seed_are_rows_of_generate(server):
    """n texts of each prompt; the same seed says the same, another seed another thing."""
    how = Sampling(temperature=1.5, top_p=0.9)
    asked = {"n": 3, "seed": 7, "temperature": 1.5, "top_p": 0.9}
    texts = [choice.text for choice in server.write(["once", "twice"], **asked).choices]
    assert texts[:3] == said(["once"] * 3, how=how, seed=7)
    assert len(set(texts)) == 6
    assert texts == [choice.text for choice in server.write(["once", "twice"], **asked).choices]
    assert [choice.text for choice in server.write(**asked | {"seed": 8}).choices] != texts[:3]
    # Without a seed no two are alike.
    assert (
        server.write(temperature=2).choices[0].text != server.write(temperature=2).choices[0].text
    )


def logprobs(tokens):
    """The model's log-probabilities (T, V) after each of the tokens, of a plain forward pass."""
    padded = np.pad(tokens, (0, MODEL.context_length - len(tokens)))  # for one compilation
    logits = jax.jit(GPT(MODEL).apply)({"params": PARAMS}, padded[None])
    return np.asarray(jax.nn.log_softmax(logits[0, : len(tokens)]))


def test_log_probabilities_are_the_models_own(server):
    """Of a completion with its prompt, which is how others score texts; and of a chat."""
    (choice,) = server.write(logprobs=3, echo=True).choices
    ids = list(choice.text.encode())
    expected, found = logprobs(ids), choice.logprobs
    assert choice.text.startswith("once")
    assert found.tokens == list(choice.text)
    assert found.text_offset == list(range(16))
    assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
    ours = found.token_logprobs[1:]
    np.testing.assert_allclose(ours, [expected[n, t] for n, t in enumerate(ids[1:])], atol=1e-4)
    for row, top in zip(expected, found.top_logprobs[1:], strict=False):
        best = np.argsort(-row)[:3]
        np.testing.assert_allclose(list(top.values()), row[best], atol=1e-4)
    only = server.write(choice.text, logprobs=0, echo=True, max_tokens=0).choices[0]
    assert only.text == choice.text
    np.testing.assert_allclose(only.logprobs.token_logprobs[1:], ours, atol=1e-5)
    answer = server.chat(logprobs=True, top_logprobs=2).choices[0]
    content = answer.logprobs.content
    assert "".join(item.token for item in content) == answer.message.content
    expected = logprobs(list((chat.render(HI) + answer.message.content).encode()))
    for item, row in zip(content, expected[len(chat.render(HI)) - 1 :], strict=False):
        np.testing.assert_allclose(item.logprob, row[item.bytes[0]], atol=1e-4)
        likely, other = item.top_logprobs
        assert likely.logprob == item.logprob > other.logprob  # it is greedy


def test_prompts_of_token_ids(server, likeliest):
    """Are not tokenised, and a list of lists is several."""
    assert server.write(list(b"once")).choices[0].text == likeliest[0]
    answer = server.write([list(b"once"), [256]], echo=True)
    assert answer.choices[0].text == "once" + likeliest[0]
    assert answer.usage.prompt_tokens == 5
    # The name of a special token in a text is text.
    assert server.write("<|endoftext|>").usage.prompt_tokens == 13


def test_the_models(server):
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").owned_by == "gpt_jax"
    with pytest.raises(openai.NotFoundError, match="'other'"):
        server.client.models.retrieve("other")


BAD = [
    ({"max_tokens": 151}, "max_tokens", None, "150"),
    ({"max_tokens": 0}, "max_tokens", None, "from 1"),
    ({"max_tokens": 2.5}, "max_tokens", None, "2.5"),
    ({"max_tokens": True}, "max_tokens", None, "True"),
    ({"prompt": "x" * 20, "max_tokens": 145}, "max_tokens", "context_length_exceeded", "140"),
    ({"prompt": "x" * 121}, "prompt", "context_length_exceeded", "120"),
    ({"prompt": "x" * 160}, "prompt", "context_length_exceeded", "160"),
    ({"prompt": []}, "prompt", None, "token ids"),
    ({"prompt": [[]]}, "prompt", None, "token ids"),
    ({"prompt": ["a", [1]]}, "prompt", None, "token ids"),
    ({"prompt": [257]}, "prompt", None, "257"),
    ({"prompt": [True]}, "prompt", None, "True"),
    ({"prompt": ["a"] * 65}, "prompt", None, "64 texts"),
    ({"n": 0}, "n", None, "from 1"),
    ({"n": 100}, "n", None, "64 texts"),
    ({"temperature": -1}, "temperature", None, "from 0 to 2"),
    ({"temperature": "hot"}, "temperature", None, "'hot'"),
    ({"top_p": 1.5}, "top_p", None, "from 0 to 1"),
    ({"stop": ["a"] * 5}, "stop", None, "up to 4"),
    ({"stop": ""}, "stop", None, "empty"),
    ({"logprobs": 21}, "logprobs", None, "20"),
    ({"seed": "x"}, "seed", None, "integer"),
    ({"best_of": 2}, "best_of", "unsupported", "n texts"),
    ({"suffix": "x"}, "suffix", "unsupported", "not supported"),
    ({"presence_penalty": 1.0}, "presence_penalty", "unsupported", "not supported"),
    ({"stream": "yes"}, "stream", None, "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", None, "stream"),
    ({"extra_body": {"temprature": 1}}, "temprature", None, "temprature"),
]


@pytest.mark.parametrize(("options", "param", "code", "words"), BAD)
def test_a_bad_field_is_named(server, options, param, code, words):
    """With status 400, by OpenAI's own exception, and the server goes on."""
    prompt = options.get("prompt", "once")
    options = {name: value for name, value in options.items() if name != "prompt"}
    with pytest.raises(openai.BadRequestError) as caught:
        server.write(prompt, **options)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert words in caught.value.message
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "options", "param"),
    [
        ([], {}, "messages"),
        ([{"role": "robot", "content": "hi"}], {}, "messages"),
        ([{"role": "user", "content": ""}], {}, "messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages"),
        ([{"role": "user", "content": "x" * 130}], {}, "messages"),
        (HI, {"top_logprobs": 2}, "top_logprobs"),
        (HI, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (HI, {"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_a_bad_chat_is_told_so(server, messages, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        server.chat(messages, **options)
    assert caught.value.param == param


def test_fields_that_ask_for_nothing_are_accepted(server, likeliest):
    """Those that say nothing of the text, and those whose value is the neutral one."""
    neutral = {"user": "me", "best_of": 1, "presence_penalty": 0, "logit_bias": {}, "suffix": None}
    assert server.write(**neutral).choices[0].text == likeliest[0]
    assert server.chat(tools=[], response_format={"type": "text"}, extra_body={"store": False})


def test_an_unknown_model_is_not_found(server):
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"


def post(server, path, body, **headers):
    """(status, the body as JSON) of a request by hand."""
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(server.url + path, body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", b"{", 400),
        ("/v1/completions", b"[1]", 400),
        ("/v1/completions", b'{"model": "tiny", "temperature": NaN}', 400),
        ("/v1/completions", b"[" * 4900, 400),
        ("/v1/completions", b"\xff\xfe", 400),
        ("/v1/completions", b'{"prompt": "no model"}', 400),
        ("/v1/completions", rb'{"model": "tiny", "prompt": "\ud800"}', 400),
        ("/v1/completions", rb'{"model": "tiny", "\ud800": 1}', 400),
        ("/v1/completions", rb'{"model": "\ud800"}', 404),
        ("/v1/completions", b" " * 5001, 413),
        ("/v1/nothing", b"{}", 404),
        ("/v1/completions", None, 405),
    ],
)
def test_what_is_no_request_gets_an_error_of_the_same_form(server, path, body, status):
    found, answer = post(server, path, body)
    assert found == status
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),  # a name that was made to mean this machine
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost", "Host": "localhost"}, 200),
        ({"Origin": "http://localhost:81", "Host": "localhost:80"}, 403),
    ],
)
def test_pages_of_other_sites_are_not_let_in(server, headers, status):
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode()
    assert post(server, "/v1/completions", body, **headers)[0] == status


def test_the_page_needs_nothing_from_elsewhere(server):
    """One file, without a link to anything but this server's own API."""
    with urllib.request.urlopen(server.url) as answer:
        page = answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "v1/chat/completions" in page
    assert not [
        word for word in ("http:", "https:", "src=", "innerHTML", "@import") if word in page
    ]


def test_fifty_one_clients_stream_at_once(server):
    """Each gets its own text, and no program is compiled for any of them."""
    before = programs.step._cache_size(), programs.read._cache_size()
    prompts = [f"{n} " + "green bottles " * (n % 6) for n in range(51)]

    async def one(client, prompt):
        stream = await client.completions.create(
            model="tiny", prompt=prompt, stream=True, temperature=0, max_tokens=20
        )
        return "".join([part.choices[0].text async for part in stream])

    async def everyone():
        async with openai.AsyncOpenAI(**server.settings) as client:
            return await asyncio.gather(*(one(client, prompt) for prompt in prompts))

    assert asyncio.run(everyone()) == said(prompts, 20)
    assert (programs.step._cache_size(), programs.read._cache_size()) == before
    assert server.becomes_idle()


CLIENT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = {"model": "tiny", "prompt": "x", "max_tokens": 150, "stream": sys.argv[2] == "stream"}
connection.request("POST", "/v1/completions", json.dumps(body))
print("sent", flush=True)
print(connection.getresponse().readline(), flush=True)
sys.stdin.read()
"""


def test_killed_clients_leave_nothing_behind(slow):
    """Processes in the middle of a stream, and one that waits for the whole: kill -9."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(slow.port), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in ("stream", "stream", "whole", "stream", "stream", "stream")
    ]
    for client in clients:
        assert client.stdout.readline() == "sent\n"
    assert clients[0].stdout.readline().startswith("b'data: ")
    assert slow.engine.counts()["active"] == 4
    for client in clients:
        client.kill()
        client.communicate()
    assert slow.becomes_idle(2.0)


def test_a_client_that_hangs_up_leaves_nothing_behind(slow):
    """By a reset in mid-stream, and by OpenAI's client closing its stream."""
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 150, "stream": True})
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall((head + body).encode())
        assert b"200 OK" in client.recv(1000)
    stream = slow.write(max_tokens=150, stream=True)
    assert next(iter(stream)).choices
    stream.close()
    # One that goes before it has said what it wants.
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.sendall(head.encode())
    assert slow.becomes_idle(2.0)
    assert slow.write().choices[0].finish_reason == "length"


def test_a_full_queue_is_a_rate_limit(slow):
    """64 texts can be written or wait; the next is told to come again."""
    streams = [slow.write(n=32, stream=True, max_tokens=150) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:
        slow.write()
    assert caught.value.code == "queue_full"
    for stream in streams:
        stream.close()
    assert slow.becomes_idle(2.0)


def test_a_request_that_takes_too_long_is_told_so(slow):
    """As its answer; in a stream that has begun, as its last event."""
    quick = Served("tiny", MODEL, BYTES, Limits(5000, 120, 150, 0.3, 64))
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(slow.engine, quick, "127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    asked = {"model": "tiny", "prompt": "once", "max_tokens": 150}
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(**asked)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    with pytest.raises(openai.APIError, match=r"may take 0\.3 s"):
        list(client.completions.create(**asked, stream=True))
    assert slow.becomes_idle(2.0)
    with socket.create_connection(listener.getsockname()) as slow_body:
        slow_body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        slow_body.sendall(b"Content-Length: 10\r\n\r\n{")
        assert b"408 " in slow_body.recv(1000)
    server.should_exit = True
    thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(tmp_path, number):
    """The lines it prints, a stream that is finished after the signal, and a clean end."""
    run = write_random_run(tmp_path / "spoken")
    process = start("serve", run, "--port", 0, "--slots", 1)
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0] == "serving spoken\n"
    url = lines[2].split()[1]
    if number == signal.SIGTERM:
        port = url.split(":")[2].split("/")[0]
        status, _, err = finish(start("serve", run, "--port", port))
        assert status == 1
        assert err.startswith("error: the server must be able to listen on 127.0.0.1 port")
        assert err.count("\n") == 1
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    stream = iter(
        client.completions.create(model="spoken", prompt="x", max_tokens=120, stream=True)
    )
    next(stream)
    began = time.monotonic()
    process.send_signal(number)
    assert list(stream)[-1].choices[0].finish_reason == "length"
    status, out, err = finish(process)
    assert (status, out, err) == (0, "", "")
    assert time.monotonic() - began < 8
