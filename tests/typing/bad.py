"""Calls that must be errors, each on the line that says so. Read by mypy and pyright in `test_typing.py`, never run."""

from __future__ import annotations

from packhorse import App, Client, Job, Receipt

app = App(namespace="shop")


@app.job
async def mail(address: str, copies: int = 1) -> None: ...


@app.job(max_fails=3)
def with_job(job: Job, n: int, *, flag: bool = False) -> int:
    return n


def enqueue(client: Client) -> None:
    mail.enqueue()  # expect-error: nothing for `address`
    mail.enqueue(5)  # expect-error: wrong type
    mail.enqueue("a", "b")  # expect-error: wrong type
    mail.enqueue("a", 1, 2)  # expect-error: too many
    mail.enqueue(adress="a")  # expect-error: misspelt
    mail.enqueue(address="a", copies=None)  # expect-error: not optional
    with_job.enqueue(5, True)  # expect-error: keyword only
    with_job.enqueue(Job(), 5)  # expect-error: the job is not an argument
    with_job.enqueue(job=None, n=5)  # expect-error: the job is not an argument
    with_job.enqueue_in("60", 5)  # expect-error: seconds are a number
    with_job.enqueue_in(60)  # expect-error: nothing for `n`
    with_job.enqueue_unique_by_key(5, 5)  # expect-error: the key is a mapping
    with_job.options(delay="soon").enqueue(5)  # expect-error: seconds are a number
    with_job.options(later=5)  # expect-error: no such option
    with_job.options(delay=5).enqueue("5")  # expect-error: wrong type
    with_job.prepare("5")  # expect-error: wrong type
    client.enqueue("mail", ["a"])  # expect-error: arguments are a mapping
    client.enqueue_many(["mail"])  # expect-error: not prepared


async def enqueue_async() -> Receipt:
    await mail.enqueue_async(5)  # expect-error: wrong type
    await mail.enqueue_async(address=None)  # expect-error: not optional
    await mail.enqueue_in_async(60, address=5)  # expect-error: wrong type
    await mail.enqueue_unique_by_key_async("key", address="a")  # expect-error: the key is a mapping
    return mail.enqueue_async("a")  # expect-error: not awaited


def call() -> str:
    with_job("5")  # expect-error: wrong type
    return with_job(5)  # expect-error: an int


@app.job(max_fails="3")  # expect-error: wrong type
def option() -> None: ...


@app.job(priorty=3)  # expect-error: misspelt
def misspelt() -> None: ...


@app.middleware  # expect-error: takes a job and what comes next
async def short(job: Job) -> None: ...


app.worker(concurrency=5).cancel(5)  # expect-error: an id is a text
App(5)  # expect-error: a URL is a text
