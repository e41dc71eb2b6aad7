"""Arithmetic that a user types, computed without running it as a program."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping

from store.errors import FacepipeError

LONGEST = 500  # characters; Python's parser recurses
FUNCTIONS: dict[str, Callable[..., float]] = {
    "log": math.log,
    "log10": math.log10,
    "log1p": math.log1p,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "abs": abs,
    "min": min,
    "max": max,
}
_ONE_ARGUMENT = frozenset(FUNCTIONS) - {"min", "max"}
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class FormulaError(FacepipeError, ValueError):
    """A formula that is none, or that asks for more than arithmetic over the names there are."""


class Formula:
    """An expression over named numbers: ``+ - * / **``, brackets, numbers and FUNCTIONS.

    Anything else (an attribute, an index, a string, a comparison, a name that is not there) is
    refused before anything is computed. All is computed in float64, so that no power of powers
    takes long.

    Parameters
    ----------
    text : str
        Such as ``log1p(likes) - log1p(views)``.
    known : iterable of str
        The names that it may use.

    Attributes
    ----------
    names : frozenset of str
        Those that it does use.

    Raises
    ------
    FormulaError
    """

    def __init__(self, text: str, known: Iterable[str]) -> None:
        self.text = " ".join(text.split())
        self._known = list(known)
        if len(self.text) > LONGEST:
            raise self._refused(f"is {len(self.text)} characters long, {LONGEST} at most")
        try:
            self._tree = ast.parse(self.text, mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, FormulaError):
                raise
            raise self._refused("is not arithmetic as Python writes it") from None
        self.names = frozenset(
            node.id
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Name) and node.id not in FUNCTIONS
        )

    def __call__(self, values: Mapping[str, float]) -> float:
        """Compute it.

        Parameters
        ----------
        values : mapping of str to float
            At least ``names``.

        Raises
        ------
        ArithmeticError, ValueError
            No finite number comes out: a division by zero, a logarithm of zero, an overflow.
        """
        found = self._value(self._tree, values)
        if not math.isfinite(found):
            raise OverflowError("too large")
        return found

    def _refused(self, why: str) -> FormulaError:
        return FormulaError(
            f"the formula '{self.text[:80]}' {why}",
            f"names: {', '.join(self._known)}; functions: {', '.join(FUNCTIONS)}; + - * / ** ( )",
        )

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=bool() as word):
                raise self._refused(f"holds {word}, which is no number")
            case ast.Constant(value=int() | float() as number):
                if abs(number) > 1e300:  # an int may be too large for a float
                    raise self._refused("holds a number that is too large")
            case ast.Name(id=name):
                if name not in self._known:
                    raise self._refused(f"names '{name}', which there is not")
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
                self._check(operand)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
                self._check(left)
                self._check(right)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if len(args) != 1 if name in _ONE_ARGUMENT else len(args) < 2:
                    wanted = "one number" if name in _ONE_ARGUMENT else "two numbers or more"
                    raise self._refused(f"gives {name} {len(args)}, and it takes {wanted}")
                for argument in args:
                    self._check(argument)
            case _:
                part = ast.get_source_segment(self.text, node) or self.text
                raise self._refused(f"holds '{part[:40]}', which is no arithmetic")

    def _value(self, node: ast.expr, values: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return float(values[name])
            case ast.UnaryOp(op=sign, operand=operand):
                return _UNARY[type(sign)](self._value(operand, values))
            case ast.BinOp(left=left, op=sign, right=right):
                return _BINARY[type(sign)](self._value(left, values), self._value(right, values))
            case ast.Call(func=ast.Name(id=name), args=args):
                return float(FUNCTIONS[name](*(self._value(a, values) for a in args)))
            case _:
                raise AssertionError("checked when it was read")
