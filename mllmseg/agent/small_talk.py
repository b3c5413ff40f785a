"""What can be said to the agent itself: commands to the conversation, greetings, thanks, help, why."""

from __future__ import annotations

from mllmseg.agent.grammar import Builder, Match, Rules

HELP = (
    "Name what you look for (“the dog and the red ball”), leave things out (“everything except the people”), count "
    "(“how many cars are there?”), go on from there (“only the left one”, “not that one”), edit (“blur the "
    "background”, “make the car blue”, “remove the bottle”), measure (“how big is it?”), or ask for a place (“the free "
    "space left of the car”)."
)

SMALL_TALK = Rules()


@SMALL_TALK.on(r"undo(?: (?:that|it|this|the last (?:one|step)))?|(?:take|go) (?:that |it )?back|revert(?: that| it)?")
def undo(_: Builder, __: Match) -> str:
    """Back to before the last message."""
    return "undo"


@SMALL_TALK.on(
    r"reset|start over|start again|restore(?: the)?(?: original)?(?: picture| image)?|undo (?:all|everything)"
)
def reset(_: Builder, __: Match) -> str:
    """Without masks and edits."""
    return "reset"


@SMALL_TALK.on(r"hide (?:the rest|(?:everything|all) else|the others?)")
def hide_rest(builder: Builder, _: Match) -> str:
    """Only what is shown is shown already."""
    builder.show += [name for name in builder.focus if name not in builder.show]
    return "show" if builder.show else ""


@SMALL_TALK.on(r"(?:hide|clear)(?: (?:it|them|that|everything|all|(?:all |the |all the )?masks?))?")
def hide(_: Builder, __: Match) -> str:
    """Nothing is shown."""
    return "hide"


@SMALL_TALK.on(r"(?:yes|yeah|yep|sure|ok|okay|do it|go ahead|show (?:it|that|them|me)(?: anyway)?)(?: please)?")
def accept(builder: Builder, _: Match) -> str:
    """What was offered."""
    return "accept" if builder.context.offered else ""


@SMALL_TALK.on(
    r"no|nope|no thanks?|no,? thank you|never ?mind|ok|okay|yes",
    r"(?:(?:that|this|it)(?:'s| is| was| looks)? |looks |very |really |so |pretty )*(?:great|nice|cool|good|perfect|"
    r"fine|right|correct|better|awesome|wonderful|excellent|amazing|well done)(?: job| work| one)?",
    r"(?:many )?thanks?(?: you)?(?: very much| so much| a lot)?",
)
def agree(builder: Builder, _: Match) -> str:
    """Politeness."""
    return builder.say("All right. Ask for anything else in the picture.")


@SMALL_TALK.on(r"(?:hi|hello|hey|good (?:morning|day|evening)|hallo|bonjour|hola)(?: there| you)?(?:,? how are you)?")
def greet(builder: Builder, _: Match) -> str:
    """A greeting."""
    return builder.say("Hello! " + HELP)


@SMALL_TALK.on(r"help(?: me)?|what can (?:you|i) (?:do|say|ask).*|how does (?:this|it) work|who are you|what are you")
def explain_yourself(builder: Builder, _: Match) -> str:
    """What can be said."""
    return builder.say("I find things in a picture and show them as masks. " + HELP)


@SMALL_TALK.on(
    r"why(?: (?:not|that|this|is that|so))?|explain(?: (?:that|this|it|yourself))?",
    r"how (?:do|did|can) you (?:know|find|get|see).*",
)
def why(_: Builder, __: Match) -> str:
    """How the last answer came about."""
    return "why"


@SMALL_TALK.on(
    r"(?:zoom|save|download|export|print|rotate|flip|resize|share|send|upload|translate)"
    r"(?: (?:it|that|this|in|out|as|to|the (?:picture|image|photo|mask|result))\b.*)?",
)
def cannot(builder: Builder, _: Match) -> str:
    """What no tool does."""
    return builder.say("I cannot do that from here. " + HELP)


@SMALL_TALK.on(r"(?:then|so|what (?:else|next|now)|next|more|go on|continue|and|well)")
def go_on(builder: Builder, _: Match) -> str:
    """Waiting."""
    return builder.say("Say what to do next. " + HELP)


@SMALL_TALK.on(
    r"(?:(?:find|show|mark|segment|select)(?: me)? )?(?:everything|all (?:of it|things|objects))",
)
def everything(builder: Builder, _: Match) -> str:
    """More than can be marked."""
    return builder.say("Everything is too much to mark at once. " + HELP)


@SMALL_TALK.on(r"(?:good)?bye.*|see you.*|exit|quit")
def part(builder: Builder, _: Match) -> str:
    """A farewell."""
    return builder.say("Goodbye!")
