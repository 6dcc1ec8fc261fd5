"""Interactive routing explorer: sliders in a live notebook, static HTML elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from ipywidgets import Widget
    from transformers import PreTrainedTokenizerBase

    from qwen3lab.models.routing import Routing


SHOWN = 4  # layers side by side


class RoutingExplorer:
    """Explorer of one token's experts in every layer; display it as the last line of a cell.

    Without a live notebook the output is HTML alone: a widget's output names its model by a random
    id, so it would differ from run to run, and a static page could not show it.
    """

    def __init__(
        self,
        routing: Routing,
        tokenizer: PreTrainedTokenizerBase,
        row: int = 0,
        token: int = 0,
        interactive: bool | None = None,
    ):
        """Select one token of one text.

        Args:
            routing: the result of `routing.record`.
            row: the index of the text.
            token: the first token shown, counted from the start of the text; negative from its end.
            interactive: whether to show sliders; default: where `measure.is_live`.
        Raises:
            Qwen3labError: no such text or token.
        """
        self.places = (routing.rows == row).nonzero()[0]
        if not len(self.places):
            raise Qwen3labError(
                f"There is no text {row}. Choose a number from 0 to {int(routing.rows.max())}."
            )
        if not -len(self.places) <= token < len(self.places):
            raise Qwen3labError(
                f"The text has no token {token}. Choose a number from 0 to {len(self.places) - 1}."
            )
        self.routing, self.tokenizer, self.token = routing, tokenizer, token % len(self.places)
        self.interactive = measure.is_live() if interactive is None else interactive

    def experts(self, token: int, layer: int) -> list[tuple[int, float]]:
        """Return the (expert, weight) pairs of a token in a layer, the heaviest first."""
        place = self.places[token]
        return list(
            zip(
                self.routing.experts[layer, place].tolist(),
                self.routing.weights[layer, place].tolist(),
            )
        )

    def html(self, token: int | None = None, layers: Sequence[int] | None = None) -> str:
        """Render the text with one token highlighted, above its experts per layer with weight bars.

        `layers`: default all; with more than four the first, the last and two between.
        """
        token, count = self.token if token is None else token, len(self.routing.experts)
        if layers is None:
            layers = (
                range(count)
                if count <= SHOWN
                else [round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)]
            )
        ids = self.routing.ids[self.places].tolist()
        text = chat.tokens_html(
            self.tokenizer,
            ids,
            labels=[ids[token] if place == token else chat.IGNORED for place in range(len(ids))],
        )
        digits = len(str(self.routing.n_experts - 1))
        heads = "".join(f'<th style="text-align:left">layer {layer}</th>' for layer in layers)
        cells = "".join(
            '<td style="text-align:left;vertical-align:top;padding-right:1.5em;white-space:pre">'
            + "<br>".join(
                f"expert {expert:>{digits}} <span"
                f' style="display:inline-block;background:#1f4e79;height:0.8em;'
                f'width:{round(100 * weight)}px"></span>'
                f" {weight:.2f}"
                for expert, weight in self.experts(token, layer)
            )
            + "</td>"
            for layer in layers
        )
        return (
            f'{text}<table style="font-family:monospace"><caption style="text-align:left">experts'
            f" of token {token}</caption><tr>{heads}</tr><tr>{cells}</tr></table>"
        )

    def widget(self) -> Widget:
        """Build the ipywidgets view: sliders for layer and token above the HTML of that choice."""
        import ipywidgets

        layer = ipywidgets.IntSlider(description="layer", min=0, max=len(self.routing.experts) - 1)
        token = ipywidgets.IntSlider(
            self.token,
            description="token",
            min=0,
            max=len(self.places) - 1,
            layout={"width": "30em"},
        )
        view = ipywidgets.HTML()

        def show(_change: Any = None) -> None:
            view.value = self.html(token.value, [layer.value])

        layer.observe(show, "value")
        token.observe(show, "value")
        show()
        return ipywidgets.VBox([layer, token, view])

    def __repr__(self) -> str:
        lines = [
            f"layer {layer}: "
            + ", ".join(
                f"expert {expert} {weight:.2f}"
                for expert, weight in self.experts(self.token, layer)
            )
            for layer in range(len(self.routing.experts))
        ]
        return "\n".join(
            [
                (
                    f"experts of token {self.token}"
                    f" ({self.tokenizer.decode([self.routing.ids[self.places[self.token]]])!r})"
                ),
                *lines,
            ]
        )

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        # A front end shows the richest format that it knows, and HTML where it has no widgets.
        live = self.widget()._repr_mimebundle_() if self.interactive else {}
        return live | {"text/plain": repr(self), "text/html": self.html()}
