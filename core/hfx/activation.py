"""Which plugins a run has: who named each, in which layer, and who provides each role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfx.discovery import OWN, PluginRef, canonical_distribution, offering, pick, split_name
from hfx.errors import ConfigError, PluginNotFound
from hfx.implementations import ROLES, provided
from hfx.layers import Origin, Section
from hfx.mentions import Layer, Mention
from hfx.plugin import Plugin
from hfx.policy import Policy


@dataclass
class Choice:
    """A plugin on its way to being active: chosen, its class imported, its options not yet validated."""

    name: str
    plugin_class: type[Plugin]
    ref: PluginRef | None
    layer: Layer
    origin: Origin
    plugin: Plugin | None = None
    options: dict[Layer, Section] = field(default_factory=dict)


@dataclass(frozen=True)
class RoleChoice:
    """Who provides a role, and why."""

    plugin: str
    why: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.why})"


class Activation:
    """Decides, layer by layer, which plugins are active; imports only those that somebody or the defaults named."""

    def __init__(
        self, refs: Sequence[PluginRef], policy: Policy, given: Mapping[str, type[Plugin]] | None = None
    ) -> None:
        self.refs = refs
        self.given = given or {}
        """Classes that are no entry point, by name: a resumed run's file names them, Python gives them again."""
        self.policy = policy
        self.choices: dict[str, Choice] = {}
        self.dropped: dict[str, Origin] = {}
        self.notes: list[str] = []

    def activate(self, mentions: Iterable[Mention]) -> None:
        """Take one layer's mentions; within it the last word about a name counts.

        Raises:
            ConfigError: a name means nothing, or more than one thing, or the policy refuses it.
        """
        last: dict[str, Mention] = {}
        for mention in mentions:
            earlier = last.get(mention.name)
            if earlier and not earlier.drops and not mention.drops and not earlier.same_as(mention):
                raise ConfigError(
                    f"plugin '{mention.name}' is given twice, by {earlier.origin} and {mention.origin}; give it once"
                )
            last[mention.name] = mention
        for mention in last.values():
            if mention.drops:
                self._drop(mention)
            elif mention.layer > Layer.DEMO or mention.name not in self.dropped:
                self._choose(mention)

    def _drop(self, mention: Mention) -> None:
        chosen = self.choices.pop(mention.name, None)
        if chosen and chosen.layer is Layer.POLICY:
            raise ConfigError(f"'{chosen.name}' is always on by the policy {chosen.origin}; remove '{mention.text}'")
        if chosen is None:
            try:
                offering(mention.name, self.refs)
            except PluginNotFound as error:
                raise _placed(error, mention.origin) from None
        self.dropped[mention.name] = mention.origin

    def _choose(self, mention: Mention) -> None:
        chosen = self.choices.get(mention.name)
        self.dropped.pop(mention.name, None)
        ref = self._ref(mention, chosen)
        if chosen and chosen.ref != ref:
            self._refuse_other(chosen, mention, ref)
            chosen = None
        if chosen is None:
            plugin_class = type(mention.plugin) if mention.plugin else self.load(ref, mention.name)
            chosen = Choice(mention.name, plugin_class, ref, mention.layer, mention.origin)
            self.choices[mention.name] = chosen
        elif mention.layer > chosen.layer:
            chosen.layer, chosen.origin = mention.layer, mention.origin
        chosen.plugin = mention.plugin or chosen.plugin
        chosen.options[mention.layer] = mention.options

    def _refuse_other(self, chosen: Choice, mention: Mention, ref: PluginRef | None) -> None:
        old, new = str(chosen.ref or chosen.name), str(ref or mention.name)
        if chosen.layer is Layer.POLICY:
            raise ConfigError(f"'{old}' is always on by the policy {chosen.origin}; remove '{new}' of {mention.origin}")
        self.notes.append(f"'{new}' of {mention.origin} replaces '{old}' of {chosen.origin}")

    # ── from a name to a class ───────────────────────────────────────────────────────────────────────────────────────

    def _ref(self, mention: Mention, chosen: Choice | None) -> PluginRef | None:
        if mention.plugin is not None:
            distribution = mention.ref.distribution if mention.ref else None
            if reason := self.policy.refusal(mention.name, distribution):
                raise ConfigError(f"plugin '{mention.name}' is {reason}; choose another, or ask who keeps the policy")
            if mention.ref:
                self.policy.check_version(mention.ref)
            return mention.ref
        if chosen and "@" not in mention.text:
            return chosen.ref
        if mention.text in self.given:
            return None
        typed = mention.layer > Layer.DEMO or mention.origin.kind == "policy"
        try:
            return self.pick(mention.text, typed)
        except PluginNotFound as error:
            if mention.origin.kind == "yaml" and unregistered_in(mention.name, mention.origin):
                raise PluginNotFound(
                    f"{mention.origin}: '{mention.name}' is a class that was given from Python; go on from there: "
                    "`hfx.train(resume=..., plugins=[...])`"
                ) from None
            raise _placed(error, mention.origin) from error.__cause__

    def pick(self, text: str, typed: bool) -> PluginRef:
        """Return the entry point that a name means under the policy.

        Raises:
            PluginNotFound: nobody offers it, more than one does, or the policy refuses it.
        """
        name, distribution = split_name(text)
        same = offering(name, self.refs)
        permitted = self.policy.permitted(same)
        wanted = distribution or canonical_distribution(self.policy.prefer.get(name, "")) or ("" if typed else OWN)
        meant = [ref for ref in same if not wanted or canonical_distribution(ref.distribution) == wanted]
        if meant and not set(meant) & set(permitted):
            reason = self.policy.refusal(meant[0].name, meant[0].distribution)
            raise PluginNotFound(f"plugin '{meant[0]}' is {reason}; choose another, or ask who keeps the policy")
        return pick(text, permitted, self.policy.prefer, typed)

    def load(self, ref: PluginRef | None, name: str) -> type[Plugin]:
        """Import the class of an entry point, if its version is one that the policy takes; or return the one given."""
        if ref is None:
            return self.given[name]
        self.policy.check_version(ref)
        return ref.load()

    # ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def provider(self, role: str) -> Choice | None:
        """Return who provides the role among the plugins chosen so far; the strongest layer's."""
        providers = self._providers(role)
        return max(providers, key=lambda choice: choice.layer) if providers else None

    def _providers(self, role: str) -> list[Choice]:
        return [choice for choice in self.choices.values() if role in provided(choice.plugin_class)]

    def settle(self) -> None:
        """Let later layers replace the providers of earlier ones; two in one layer are an error.

        Raises:
            ConfigError: two providers of one layer, or one beside the policy's.
        """
        for role in ROLES:
            winner = self.provider(role)
            for loser in self._providers(role):
                if winner and loser.layer < winner.layer:
                    self._replace(role, winner, loser)
        for role in ROLES:
            same = self._providers(role)
            if len(same) > 1:
                raise ConfigError(_both(role, same[0], same[1]))

    def _replace(self, role: str, winner: Choice, loser: Choice) -> None:
        if winner.layer is Layer.POLICY and loser.layer > Layer.DEMO:
            raise ConfigError(
                f"'{loser.name}' of {loser.origin} provides '{role}', which the policy {winner.origin} fills with "
                f"'{winner.name}'; remove '{loser.name}'"
            )
        del self.choices[loser.name]
        self.notes.append(f"'{winner.name}' of {winner.origin} replaces '{loser.name}' of {loser.origin}")

    def fill(self, role: str, text: str, origin: Origin) -> None:
        """Let the defaults' plugin provide a role that nobody claimed.

        Raises:
            ConfigError: it was dropped, or provides no such role.
        """
        name = split_name(text)[0]
        if name in self.dropped:
            raise ConfigError(
                f"nobody provides the role '{role}': '{name}' is dropped by {self.dropped[name]}; "
                f"name another with `--plugin`, `hfx plugins` lists them"
            )
        self.activate([Mention(text, Layer.DEFAULT, origin)])
        if role not in provided(self.choices[name].plugin_class):
            raise ConfigError(f"{origin}: '{name}' does not provide the role '{role}'; name one that does")


def unregistered_in(name: str, origin: Origin) -> bool:
    """Return whether the file says that the plugin is no entry point, as `run.yaml` does."""
    path = Path(origin.where.rpartition(":")[0])
    return path.is_file() and f"# '{name}' is unregistered" in path.read_text(encoding="utf-8")


def _placed(error: PluginNotFound, origin: Origin) -> PluginNotFound:
    return PluginNotFound(f"{origin}: {error}") if origin.kind in ("yaml", "policy") else error


def _both(role: str, first: Choice, second: Choice) -> str:
    at = f"'{first.name}' and '{second.name}' both provide the role '{role}'"
    if first.layer is Layer.POLICY:
        return f"{at} and the policy {first.origin} activates both; drop one from the policy"
    if first.layer is Layer.DEFAULT:
        return f"{at} and both are defaults; name one with `--plugin {first.name}`"
    if first.origin.kind == "flag":
        return f"{at}; drop one: remove '{second.origin}'"
    if first.origin.kind == "yaml":
        return (
            f"{at} ({first.origin} and {second.origin}); drop one: remove it there or add `--plugin no:{second.name}`"
        )
    return f"{at}; drop one from `plugins=[...]`"


def order(choices: Mapping[str, Choice], last: Iterable[str]) -> list[Choice]:
    """Return the plugins in the order of their first mention, those of `activate_last` at the end."""
    names = [split_name(text)[0] for text in last]
    return [c for c in choices.values() if c.name not in names] + [choices[name] for name in names if name in choices]
