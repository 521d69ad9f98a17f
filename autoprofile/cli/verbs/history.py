"""`autoprofile history`: the versions of a profile, who changed it and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

    from autoprofile.profile import Profile
    from autoprofile.profile.history import History

__all__ = ["command"]


@verb("history", "Change and convert", 15)
@profile_argument
@click.option(
    "--record", "why", metavar="WHY", help="Record what the profile is now as a version, for this reason."
)
@click.option("--who", metavar="NAME", help="Who changed it; without it the name of the user.")
@click.option("--show", metavar="VERSION", help="Print that version of the profile.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, why: str | None, who: str | None, show: str | None, as_json: bool
) -> None:
    """List the versions of a profile: what changed, when, by whom and why.

    --record begins the history, in PROFILE.history.jsonl; from then on `review`, `learn --merge` and
    `merge -o` add a version whenever they change what the profile means. A version is named by a hash of its
    rules, so that learning the same again is no new version.

    \b
      autoprofile history web.yaml --record "first rollout"
      autoprofile history web.yaml
      autoprofile history web.yaml --show 3f9a > earlier.yaml
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.histories import history_file, read_history, record_version
    from autoprofile.cli.inputs import read_profile
    from autoprofile.errors import AutoprofileError
    from autoprofile.profile.history import content_hash

    output = output_of(ctx)
    if show is not None and (why is not None or as_json):
        raise click.UsageError("--show prints a profile: it goes with no other option", ctx)
    if str(profile) == "-":
        raise click.UsageError("a history belongs to a file, not to stdin", ctx)
    now = read_profile(profile)
    if why is not None:
        version = record_version(profile, now, who=who, why=why)
        output.note(f"recorded {version.version}" if version else "nothing changed since the last version")
    history = read_history(profile)
    if history is None:
        raise AutoprofileError(
            "no history is kept of this profile",
            where=str(profile),
            hint=f"autoprofile history {profile} --record 'the reason' begins {history_file(profile)}",
        )
    if show is not None:
        # A rendered profile escapes control characters; a history file that holds some was changed by hand.
        output.text(history.find(show).text)
        return
    is_current = history.newest is not None and history.newest.version == content_hash(now)
    if as_json:
        output.json("history", {"versions": _rows(history), "is_current": is_current})
        return
    output.text(_text(history))
    if not is_current:
        output.warn(
            "the profile was changed since its last version",
            f"autoprofile history {profile} --record WHY makes it one; autoprofile diff shows what changed",
        )


def _rows(history: History) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    before: Profile | None = None
    for version in history.versions:
        after = _profile(version.text, version.version)
        rows.append(
            {
                "version": version.version,
                "parent": version.parent,
                "time": version.time,
                "who": version.who,
                "why": version.why,
                "changes": [] if before is None else _changes(before, after),
            }
        )
        before = after
    return rows


def _profile(text: str, version: str) -> Profile:
    from autoprofile.profile import Profile

    return Profile.loads(text, f"version {version}")


def _changes(before: Profile, after: Profile) -> list[dict[str, object]]:
    from autoprofile.profile.diff import diff

    # runs and counts differ with every learning; what a version is about is what it allows
    found = [c for c in diff(before, after) if not c.subject.startswith(("learned.", "program."))]
    return [{**change.to_dict(), "text": str(change)} for change in found]


def _text(history: History) -> str:
    lines = []
    for row in _rows(history):
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"{row['version']}  {row['time']}  {row['who']}{why}")
        changes = row["changes"]
        assert isinstance(changes, list)
        lines += [f"    {change['kind']}  {change['text']}" for change in changes]
    return "\n".join(lines) + "\n"
