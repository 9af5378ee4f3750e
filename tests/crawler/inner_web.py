"""A web of its own in a network namespace: public hosts on loopback, and private ones that listen.

Run as `unshare -rmn python inner_web.py FOLDER`; needs `ip` and `mount`. Prints, as JSON, which
private hosts were asked for anything, what became of each page, and what the crawl said.
"""

import json
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from hostile import GOOD, Host, answer, redirect, rss, serve, wrapped
from loopback import scrapy

PUBLIC, PUBLIC_6 = "93.184.216.34", "2606:2800:220:1::1"
PRIVATE = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0")
PRIVATE_6 = ("::1", "fd00::1")
# Where a public page sends its reader, by the host it is on; all ends at a private address.
WAYS = {
    **{f"by-{ip}.example": f"http://{ip}/secret" for ip in PRIVATE},
    **{f"by-{ip.replace(':', '-')}.example": f"http://[{ip}]/secret" for ip in PRIVATE_6},
    "by-number.example": "http://2130706433/secret",
    "by-hex.example": "http://0x7f000001/secret",
    "by-octal.example": "http://0177.0.0.1/secret",
    "by-short.example": "http://127.1/secret",
    "by-mapped.example": "http://[::ffff:127.0.0.1]/secret",
    "by-name.example": "http://private.example/secret",
    "by-name-6.example": "http://private-6.example/secret",
    "by-mixed.example": "http://mixed.example/secret",
    "by-localhost.example": "http://localhost/secret",
    "by-user.example": "http://public.example@127.0.0.1/secret",
}
NAMES = {
    "private.example": ["10.0.0.1"],
    "private-6.example": ["fd00::1"],
    "mixed.example": [PUBLIC, "10.0.0.1"],
    "public-6.example": [PUBLIC_6],
    "robots.example": [PUBLIC],
    "refresh.example": [PUBLIC],
    "public.example": [PUBLIC],
    **{name: [PUBLIC] for name in WAYS},
}
ALLOWED = ("-s", "PRESS_ALLOW_PRIVATE=True")


def prepare() -> None:
    """Bring the addresses and names into being."""
    commands = [["ip", "link", "set", "lo", "up"]]
    for address in (PUBLIC, *PRIVATE[1:-1]):
        commands.append(["ip", "address", "add", f"{address}/32", "dev", "lo"])
    for address in (PUBLIC_6, PRIVATE_6[1]):
        commands.append(["ip", "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad"])
    hosts = Path(sys.argv[1]) / "hosts"
    lines = [f"{ip} {name}\n" for name, ips in NAMES.items() for ip in ips]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
    commands.append(["mount", "--bind", str(hosts), "/etc/hosts"])
    for command in commands:
        subprocess.run(command, check=True)


def ends(folder: Path) -> dict[str, str]:
    """What became of every page by its address: its state, and the reason that was counted."""
    with closing(sqlite3.connect(folder / "crawl.db")) as db:
        rows = db.execute("SELECT json_extract(entry, '$.url'), state, reason FROM urls")
        return {url: reason or state for url, state, reason in rows}


def main() -> None:
    """Serve, crawl, tell."""
    prepare()
    folder = Path(sys.argv[1]) / "corpus"
    secret = {"/secret": answer(GOOD), "/page": answer(GOOD), "/robots.txt": answer(b"")}
    asked: list[str] = []
    private = {ip: Host(secret, asked) for ip in (*PRIVATE, *PRIVATE_6)}
    public = Host({"/page": answer(GOOD)})
    answers = {name: redirect(way) for name, way in WAYS.items()}
    answers["refresh.example"] = wrapped(
        b'<meta http-equiv="refresh" content="0;url=http://127.0.0.1/secret">'
    )
    robots_txt = redirect("http://127.0.0.1/robots.txt")
    links = [f"http://{name}/page" for name in (*answers, "robots.example", "public-6.example")]
    links += [way.replace("/secret", "/page") for way in WAYS.values()]
    items = "".join(f"<item><link>{link}</link></item>" for link in links)
    public.by_name = {
        **{name: {"/page": body} for name, body in answers.items()},
        "robots.example": {"/robots.txt": robots_txt, "/page": answer(GOOD)},
        "public.example": {"/feed": rss(items.encode())},
    }
    hosts = {**private, PUBLIC: public, PUBLIC_6: public}
    with ExitStack() as stack:
        stack.enter_context(serve(hosts, 80))
        stack.enter_context(serve(hosts, 80, "::"))
        options = ("-s", "PRESS_CONTACT=us@example.org", "-s", "DOWNLOAD_DELAY=0")
        feed = ("-a", "feed=http://public.example/feed", "-a", f"corpus={folder}")
        done = scrapy("crawl", "press", *feed, *options)
        options = ("-a", f"corpus={folder}-2", *options)
        refused = scrapy("crawl", "press", "-a", f"feed={','.join(WAYS.values())}", *options)
        nothing = list(asked)
        scrapy("crawl", "press", "-a", "feed=http://127.0.0.1/secret", *options, *ALLOWED)
    told = {
        "asked": nothing,
        "asked when allowed": asked,
        "ends": ends(folder),
        "said": done.stderr,
        "refused": [refused.returncode, refused.stderr.count("is not a public address")],
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
