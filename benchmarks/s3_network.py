"""A network and an S3 server with faults, for benchmarks.s3_schedules."""

import io
import random
from collections.abc import Iterator

RATES = (0.0, 0.02, 0.05, 0.1)  # of one fault for each request
STICKY = (0.3, 0.8, 0.95)  # how likely the writer that was served goes on: none, races everywhere
FAULTS = ("500", "503", "lost", "no reply", "cut")
LONGEST = 20_000  # requests of one schedule


class Network:
    """The requests of one schedule: who comes next and what becomes of it follows from the seed alone."""

    def __init__(self, seed: int, serve):
        self.luck, self.serve, self.trace = random.Random(seed), serve, []
        self.rate, self.sticky = self.luck.choice(RATES), self.luck.choice(STICKY)

    def run(self, jobs: list) -> list[str]:
        """Run the functions `jobs` to their ends; returns what went wrong."""
        from greenlet import getcurrent, greenlet

        self.hub, failed = getcurrent(), []

        def guarded(number: int, job) -> None:
            try:
                job()
            except Exception as error:
                failed.append(f"writer {number}: {error!r}")

        waiting = {number: (greenlet(guarded), (number, job)) for number, job in enumerate(jobs)}
        last = 0
        while waiting:
            if len(self.trace) > LONGEST:
                return [*failed, f"no end after {LONGEST} requests"]
            if last not in waiting or self.luck.random() > self.sticky:
                last = self.luck.choice(sorted(waiting))
            writer, given = waiting.pop(last)
            request = writer.switch(*given)
            if not writer.dead:
                waiting[last] = (writer, (self.answered(last, request),))
        return failed

    def ask(self, request, **_):
        """boto3's handler before it sends: hand the request to the hub and wait for what becomes of it."""
        answer = self.hub.switch(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answered(self, writer: int, request):
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

        fault = self.luck.choice(FAULTS) if self.luck.random() < self.rate else "served"
        if fault == "cut" and request.method != "GET":
            fault = "no reply"
        self.trace.append((writer, request.method, request.url.partition("/team/")[2][:60], fault))
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            return answer(request, int(fault), {}, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())
        if fault == "lost":
            return ReadTimeoutError(endpoint_url=request.url)
        served = self.serve(request)
        if fault == "no reply":
            return ReadTimeoutError(endpoint_url=request.url)
        if fault == "cut" and served.status_code == 200:
            content = served.content
            if "list-type" in request.url:
                return ConnectionClosedError(endpoint_url=request.url)
            return answer(request, 200, served.headers, content[: len(content) // 2])
        return served


class Raw(io.BytesIO):
    """A body as urllib3 gives it."""

    def stream(self, amt: int = 1 << 16, **_) -> Iterator[bytes]:
        while block := self.read(amt):
            yield block

    def release_conn(self) -> None:
        pass


def answer(request, status: int, headers, content: bytes):
    from botocore.awsrequest import AWSResponse

    return AWSResponse(request.url, status, dict(headers), Raw(content))
