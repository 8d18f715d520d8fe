"""placeholder"""
from __future__ import annotations
from .settings import Paths
IMAGES: dict[str, str] = {"operator": "", "trainer": ""}
def build_all(paths: Paths, names: list[str]) -> list[tuple[str, str]]:
    return []
def load(paths: Paths, image: str) -> str:
    return ""
