"""Tiles of vector registers for kernels on CPUs: what numba's loops keep in memory, these keep in registers.

A tile holds `ROWS` rows of a few vectors each, or the vectors of a sorted list. It is a value of its own to numba, and
LLVM takes it apart into registers; each operation is unrolled over it, so that one load of a vector serves all rows and
one load of a number all vectors. Arrays are C-contiguous and named with the place of a first number, counted from
their start.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

ROWS = 4

_plain: Any = intrinsic
_literal: Any = intrinsic(prefer_literal=True)
"""With the values of numbers that are known when a kernel is compiled."""

_target: Any = cpu_target.target_context
FEATURES = _target.codegen().magic_tuple()[2].split(",")
BYTES = 64 if "+avx512f" in FEATURES else 32 if "+avx" in FEATURES else 16
"""Of a vector."""
WIDE = 4 if BYTES == 64 else 2
"""Vectors in a row of a tile that is summed up."""
NARROW = WIDE // 2
"""Vectors in a row of a tile that has another one beside it."""


class Tile(types.Type):
    """Vectors of one type of numbers, in rows one after the other."""

    def __init__(self, dtype: types.Type, vectors: int) -> None:
        self.dtype, self.vectors = dtype, vectors
        super().__init__(f"Tile({dtype}, {vectors})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        element = manager.lookup(tile.dtype).get_value_type()
        super().__init__(manager, tile, ir.ArrayType(_vector(element), tile.vectors))


@njit
def lanes(itemsize: int, vectors: int) -> int:
    """Numbers in a row of a tile."""
    return vectors * BYTES // itemsize


@_literal
def load(context, array, start, stride, vectors):
    """The tile whose row r begins at start + r * stride."""
    width = vectors.literal_value

    def make(at: "_Emitter", array: Any, start: Any, stride: Any, _: Any) -> Any:
        return at.joined([v for r in range(ROWS) for v in at.vectors(array, at.row(start, stride, r), width)])

    return Tile(array.dtype, ROWS * width)(array, start, stride, vectors), _emitting(make)


@_plain
def store(context, tile, array, start, stride):
    """Writes a tile; see `load`."""

    def make(at: "_Emitter", tile: Any, array: Any, start: Any, stride: Any) -> Any:
        rows = at.rows(tile)
        for r, row in enumerate(rows):
            at.write(row, array, at.row(start, stride, r))
        return at.nothing()

    return types.void(tile, array, start, stride), _emitting(make)


@_plain
def farther(context, top, x, x_start, x_stride, w, w_start, one):
    """max(top, |x - w|) for a number x of each row and vectors w.

    `one` holds a 1 that LLVM does not know: x * one - w has the bits of x - w, and leaves the units that add, where the
    maximum is computed on some processors, to the maximum.
    """

    def make(at: "_Emitter", *args: Any) -> Any:
        ones = at.splat(args[-1], ir.Constant(ir.IntType(64), 0))
        return at.swept(lambda top, x, w: at.largest(top, at.fused_sub(x, ones, w)), *args[:-1])

    return top(top, x, x_start, x_stride, w, w_start, one), _emitting(make)


@_plain
def plus_eighth(context, total, x, x_start, x_stride, w, w_start):
    """total + (x - w)^8; see `farther`."""

    def make(at: "_Emitter", *args: Any) -> Any:
        def step(total: Any, x: Any, w: Any) -> Any:
            fourth = at.square(at.square(at.sub(x, w)))
            return at.add(total, at.mul(fourth, fourth))

        return at.swept(step, *args)

    return total(total, x, x_start, x_stride, w, w_start), _emitting(make)


@_plain
def plus_seventh(context, total, x, w, grad, w_start, factor, f_start):
    """total + s with s = factor * (x - w)^7, one factor for each row; the sum of s over the rows is taken from grad."""

    def make(at: "_Emitter", total: Any, x: Any, w: Any, grad: Any, w_start: Any, factor: Any, f_start: Any) -> Any:
        totals, rows = at.rows(total), at.rows(x)
        weights, slopes = (at.vectors(array, w_start, len(rows[0])) for array in (w, grad))
        for r in range(ROWS):
            times = at.splat(factor, at.moved(f_start, r))
            for v, weight in enumerate(weights):
                d = at.sub(rows[r][v], weight)
                second = at.square(d)
                slope = at.mul(times, at.mul(at.mul(d, second), at.square(second)))
                totals[r][v] = at.add(totals[r][v], slope)
                slopes[v] = at.sub(slopes[v], slope)
        at.write(slopes, grad, w_start)
        return at.joined([vector for row in totals for vector in row])

    return total(total, x, w, grad, w_start, factor, f_start), _emitting(make)


@_literal
def zeros(context, array, vectors):
    """A tile of zeros, of the type of an array."""
    tile = Tile(array.dtype, vectors.literal_value)

    def make(at: "_Emitter", array: Any, _: Any) -> Any:
        return at.joined([ir.Constant(_vector(array.type.pointee), None)] * tile.vectors)

    return tile(array, vectors), _emitting(make)


@_plain
def sunk(context, ordered, below, above, x_start, w, w_start):
    """The largest, in order, of a tile in that order and of max(below - w, w - above), which sinks to its place."""

    def make(at: "_Emitter", ordered: Any, below: Any, above: Any, x_start: Any, w: Any, w_start: Any) -> Any:
        parts = at.parts(ordered)
        (weight,) = at.vectors(w, w_start, 1)
        low, high = (at.splat(array, x_start) for array in (below, above))
        sinking = at.larger(at.sub(low, weight), at.sub(weight, high))
        for k, part in enumerate(parts):
            parts[k], sinking = at.larger(part, sinking), at.smaller(part, sinking)
        return at.joined(parts)

    return ordered(ordered, below, above, x_start, w, w_start), _emitting(make)


@_plain
def store_sum(context, tile, weights, array, start):
    """Writes the sum of the vectors of a tile, each times its weight."""

    def make(at: "_Emitter", tile: Any, weights: Any, array: Any, start: Any) -> Any:
        total = None
        for k, part in enumerate(at.parts(tile)):
            term = at.mul(part, at.splat(weights, ir.Constant(ir.IntType(64), k)))
            total = term if total is None else at.add(total, term)
        at.write([total], array, start)
        return at.nothing()

    return types.void(tile, weights, array, start), _emitting(make)


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, BYTES // (8 if isinstance(element, ir.DoubleType) else 4))


def _emitting(make: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's signature of a code generator around `make`, which gets pointers for arrays."""

    def emit(context, builder, signature, args):
        values = []
        for kind, value in zip(signature.args, args, strict=True):
            if isinstance(kind, types.Array):
                value = context.make_array(kind)(context, builder, value).data
            elif isinstance(kind, types.Integer):
                value = context.cast(builder, value, kind, types.intp)
            values.append(value)
        return make(_Emitter(context, builder), *values)

    return emit


class _Emitter:
    """Vector operations as LLVM instructions. `contract` lets a product and a sum become one instruction."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def nothing(self) -> Any:
        return self.context.get_dummy_value()

    def moved(self, start: Any, by: int) -> Any:
        return self.builder.add(start, ir.Constant(start.type, by))

    def row(self, start: Any, stride: Any, r: int) -> Any:
        return self.builder.add(start, self.builder.mul(stride, ir.Constant(stride.type, r)))

    def vectors(self, array: Any, start: Any, count: int) -> list[Any]:
        return [self.builder.load(place, align=4) for place in self._places(array, start, count)]

    def write(self, vectors: list[Any], array: Any, start: Any) -> None:
        for place, vector in zip(self._places(array, start, len(vectors)), vectors, strict=True):
            self.builder.store(vector, place, align=4)

    def _places(self, array: Any, start: Any, count: int) -> list[Any]:
        kind = _vector(array.type.pointee)
        starts = [self.builder.gep(array, [self.moved(start, v * kind.count)]) for v in range(count)]
        return [self.builder.bitcast(place, kind.as_pointer()) for place in starts]

    def splat(self, array: Any, start: Any) -> Any:
        """A vector of one number of an array."""
        kind = _vector(array.type.pointee)
        nothing = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(nothing, self.builder.load(self.builder.gep(array, [start])), _zero())
        return self.builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None))

    def parts(self, tile: Any) -> list[Any]:
        return [self.builder.extract_value(tile, i) for i in range(tile.type.count)]

    def rows(self, tile: Any) -> list[list[Any]]:
        parts = self.parts(tile)
        width = len(parts) // ROWS
        return [parts[r * width : (r + 1) * width] for r in range(ROWS)]

    def joined(self, vectors: list[Any]) -> Any:
        tile = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
        for i, vector in enumerate(vectors):
            tile = self.builder.insert_value(tile, vector, i)
        return tile

    def swept(self, step: Any, tile: Any, x: Any, x_start: Any, x_stride: Any, w: Any, w_start: Any) -> Any:
        """The tile after step(vector of it, x, w) for all its vectors."""
        rows = self.rows(tile)
        weights = self.vectors(w, w_start, len(rows[0]))
        for r in range(ROWS):
            number = self.splat(x, self.row(x_start, x_stride, r))
            rows[r] = [step(own, number, weight) for own, weight in zip(rows[r], weights, strict=True)]
        return self.joined([vector for row in rows for vector in row])

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=("contract",))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract",))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def fused_sub(self, a: Any, b: Any, c: Any) -> Any:
        """a * b - c, rounded once; b is 1."""
        if "+fma" not in FEATURES:
            return self.sub(a, c)
        return self._call("llvm.fma", a.type, [a, b, self.builder.fneg(c)])

    def square(self, a: Any) -> Any:
        return self.mul(a, a)

    def largest(self, top: Any, d: Any) -> Any:
        """max(top, |d|), where top >= 0."""
        if "+avx512dq" in FEATURES:
            return self._range(top, d)
        size = self._call("llvm.fabs", d.type, [d])
        return self.larger(size, top)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def _range(self, a: Any, b: Any) -> Any:
        """max(|a|, |b|) as the one instruction that AVX-512 has for it."""
        kind = a.type
        name = "ps" if kind.count == 16 else "pd"
        bits = [ir.IntType(32), kind, ir.IntType(kind.count), ir.IntType(32)]
        function = ir.FunctionType(kind, [kind, kind, *bits])
        called = cgutils.get_or_insert_function(self.builder.module, function, f"llvm.x86.avx512.mask.range.{name}.512")
        absolute_maximum, all_lanes, current_rounding = 0b1011, -1, 4
        rest = [absolute_maximum, ir.Undefined, all_lanes, current_rounding]
        constants = [ir.Constant(kind, value) for kind, value in zip(bits, rest, strict=True)]
        return self.builder.call(called, [a, b, *constants])

    def _call(self, name: str, kind: ir.VectorType, args: list[Any]) -> Any:
        suffix = f"v{kind.count}f{64 if isinstance(kind.element, ir.DoubleType) else 32}"
        function = ir.FunctionType(kind, [kind] * len(args))
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, function, f"{name}.{suffix}"), args
        )


def _zero() -> ir.Constant:
    return ir.Constant(ir.IntType(32), 0)
