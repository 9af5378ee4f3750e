"""No way leads to a private address: real public and private hosts, in a network of their own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inner_web import WAYS

UNSHARE = ["unshare", "--map-root-user", "--mount", "--net"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    try:
        tried = ["sh", "-c", "ip link set lo up && ip address add 192.0.2.1/32 dev lo"]
        subprocess.run(UNSHARE + tried, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine grants no network namespaces")
    script = str(Path(__file__).with_name("inner_web.py"))
    command = [*UNSHARE, sys.executable, script, str(tmp_path_factory.mktemp("inner"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_private_host_was_requested(told: dict[str, Any]) -> None:
    assert told["asked"] == []
    assert told["asked when allowed"] != []


@pytest.mark.parametrize("host", [*WAYS, "refresh.example", "robots.example"])
def test_a_public_page_that_leads_to_a_private_one_is_counted(
    host: str, told: dict[str, Any]
) -> None:
    assert told["ends"][f"http://{host}/page"] == "not a public address", told["said"]


@pytest.mark.parametrize("way", [way for way in WAYS.values() if "@" not in way])
def test_an_entry_at_a_private_address_is_counted(way: str, told: dict[str, Any]) -> None:
    assert told["ends"][way.replace("/secret", "/page")] == "not a public address", told["said"]


def test_feeds_at_private_addresses_are_refused(told: dict[str, Any]) -> None:
    assert told["refused"] == [3, len(WAYS)]


def test_a_public_host_with_only_an_ipv6_address_is_reached(told: dict[str, Any]) -> None:
    assert told["ends"]["http://public-6.example/page"] == "fetched", told["said"]
