"""Headless Chromium through the DevTools protocol, by pipe: nothing to install beside it."""

import fcntl
import itertools
import json
import os
import select
import signal
import time


class Chromium:
    """One page. A call sends a command of the protocol and returns its result."""

    def __init__(self, executable, profile_dir):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads descriptor 3 and writes 4.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
        flags = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile_dir}"]
        flags += ["--window-size=1280,1000"] + ["--no-sandbox"] * (os.geteuid() == 0)
        actions = [(os.POSIX_SPAWN_DUP2, end, 3 + i) for i, end in enumerate(ends)]
        actions += [(os.POSIX_SPAWN_OPEN, i, os.devnull, os.O_WRONLY, 0) for i in (1, 2)]
        self._process = os.posix_spawnp(
            executable, [executable, *flags, "about:blank"], os.environ, file_actions=actions
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._numbers = itertools.count(1)
        self._received = b""
        self._session = None
        self.events = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next_message(60)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression):
        """The value of a JavaScript expression, awaited."""
        answer = self(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression, seconds=60):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def open(self, url):
        """Loads a page."""
        self("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def choose(self, selector, path):
        """Chooses a file in an input of the page, as a person does."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def close(self):
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._write)
        os.close(self._read)

    def _next_message(self, seconds):
        while b"\0" not in self._received:
            readable, _, _ = select.select([self._read], [], [], seconds)
            chunk = os.read(self._read, 1 << 20) if readable else b""
            assert chunk, "Chromium gives no answer."
            self._received += chunk
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)
