"""A report as it goes out."""

from base64 import b64encode

from msgspec import Struct


class Written(Struct, frozen=True):
    """`html` names its `images` by their Content-ID."""

    subject: str
    text: str
    html: str
    images: dict[str, bytes]

    @property
    def standalone(self) -> str:
        """Return the HTML with its pictures in it, for a browser."""
        html = self.html
        for name, png in self.images.items():
            html = html.replace(f'"cid:{name}"', f'"data:image/png;base64,{b64encode(png).decode()}"')
        return html
