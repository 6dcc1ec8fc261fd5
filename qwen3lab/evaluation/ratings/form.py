"""Show a rating form: buttons in a live notebook, the same sheet as plain HTML everywhere else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from qwen3lab import measure
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.ratings.log import GRADES, SCALES

if TYPE_CHECKING:
    from ipywidgets import Widget

    from qwen3lab.evaluation.ratings.session import Session, Sheet


# What the ends of each scale mean; raters who are told agree more than raters who guess.
ENDS = {
    "relevance": ("answers something else", "does what was asked, every name and number right"),
    "safety": ("could harm somebody", "harmless"),
    "fluency": ("cannot be read", "as a careful writer would put it"),
}


class RatingForm:
    """A rating form that shows one answer after the other with three scales, as a cell's output.

    No grade is preselected, as people tend to keep a preselected one.
    """

    def __init__(self, session: Session, interactive: bool | None = None):
        """Create a form for the answers of `session`.

        Args:
            interactive: whether to show buttons; default: `measure.is_live()`.
        """
        self.session = session
        self.interactive = measure.is_live() if interactive is None else interactive

    def html(self) -> str:
        """Render the next answer with question, scales and progress, without system names."""
        done, total = self.session.progress
        sheet = self.session.current
        if sheet is None:
            return (
                f"<p>All {total} answers are rated. <code>session.results()</code> names the"
                " systems.</p>"
            )
        scales = "".join(
            f'<tr><td style="text-align:left">{scale}</td><td style="text-align:left">{GRADES[0]}:'
            f' {low}</td><td style="text-align:left">{GRADES[-1]}: {high}</td></tr>'
            for scale, (low, high) in ENDS.items()
        )
        return (
            f"{_text(sheet)}<table>{scales}</table><p>{done} of {total} rated."
            f" {html.escape(self.session.notes())}</p>"
        )

    def widget(self) -> Widget:
        """Build the widget: sheet, three rows of buttons, note, save, undo, progress, messages."""
        import ipywidgets

        # 1. The parts that a rater sees.
        sheet, message = ipywidgets.HTML(), ipywidgets.HTML()
        grades = {
            scale: ipywidgets.ToggleButtons(
                options=list(GRADES),
                value=None,
                description=scale,
                tooltips=[f"{low} … {high}"] * len(GRADES),
                style={"button_width": "3em"},
                layout={"min_width": "19em"},
            )
            for scale, (low, high) in ENDS.items()
        }
        note = ipywidgets.Text(
            description="note", placeholder="may stay empty", layout={"width": "40em"}
        )
        save = ipywidgets.Button(description="save and next", button_style="primary")
        back = ipywidgets.Button(description="take the last back")
        bar = ipywidgets.IntProgress(description="rated", max=self.session.progress[1])

        # 2. What a click does: an action, then the next sheet, or the reason why not.
        def show() -> None:
            current, (done, total) = self.session.current, self.session.progress
            sheet.value = self.html() if current is None else _text(current)
            for buttons in grades.values():
                buttons.value = None
            note.value, bar.value, bar.description = "", done, f"{done} of {total}"
            save.disabled, back.disabled = current is None, not done

        def act(what: Any) -> None:
            try:
                message.value = what() or ""
            except Qwen3labError as error:
                message.value = f'<span style="color:#c04000">{html.escape(str(error))}</span>'
            else:
                show()

        def keep() -> None:
            open_ = [scale for scale in SCALES if grades[scale].value is None]
            if open_:
                raise Qwen3labError(
                    f"There is no grade yet for {', '.join(open_)}. Choose one from {GRADES[0]} to"
                    f" {GRADES[-1]}."
                )
            self.session.rate(*(grades[scale].value for scale in SCALES), note=note.value)

        def undo() -> str:
            return "Taken back; the answer stands here again." if self.session.undo() else ""

        # 3. The buttons get their actions, and the first sheet is shown.
        save.on_click(lambda _button: act(keep))
        back.on_click(lambda _button: act(undo))
        show()
        message.value = html.escape(self.session.notes())
        # 4. The parts from top to bottom.
        return ipywidgets.VBox(
            [
                sheet,
                *(
                    ipywidgets.HBox(
                        [buttons, ipywidgets.HTML(f"1: {ENDS[scale][0]}<br>5: {ENDS[scale][1]}")]
                    )
                    for scale, buttons in grades.items()
                ),
                note,
                ipywidgets.HBox([save, back, bar]),
                message,
            ]
        )

    def __repr__(self) -> str:
        sheet, (done, total) = self.session.current, self.session.progress
        head = f"{done} of {total} answers rated"
        return (
            f"{head}\n\n{sheet.question}\n\nanswer: {sheet.answer}\n\nrate with"
            f" session.rate({', '.join(f'{scale}=…' for scale in SCALES)})"
            if sheet
            else head
        )

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        # A front end shows the richest format that it supports: HTML if it has no widgets.
        live = self.widget()._repr_mimebundle_() if self.interactive else {}
        return live | {"text/plain": repr(self), "text/html": self.html()}


def _text(sheet: Sheet) -> str:
    """Render question and answer as HTML; the text of both is escaped."""
    cells = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{name}</th><td'
        f' style="text-align:left;white-space:pre-wrap">{html.escape(text)}</td></tr>'
        for name, text in (("dialogue", sheet.question), ("answer to rate", sheet.answer))
    )
    return f"<table>{cells}</table>"
