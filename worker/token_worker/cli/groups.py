"""Groups of commands that name the nearest command if there is none of a name."""

import difflib

import click


class NearestGroup(click.Group):
    """A group of commands. A misspelt command is answered with the nearest one."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Raises:
            click.UsageError: there is no such command; the text names the nearest one.
        """
        name = str(args[0]) if args else ""
        if name and not name.startswith("-") and self.get_command(context, name) is None:
            nearest = difflib.get_close_matches(name.lower(), self.list_commands(context), n=1, cutoff=0)
            context.fail(f"there is no command {name!r}; the nearest is {nearest[0]!r}")
        return super().resolve_command(context, args)
