//! Tensor-core products: mma.sync m16n8k16 from registers, wmma m16n16k16 from memory.

use half::{bf16, f16};

use crate::inputs::Numbers;
use crate::warp::{FIRST, IMAGE, Parts, THIRD, build};
use crate::{Bound, Probe};

/// Rows of A and C, and the depth.
const SIDE: usize = 16;

/// How sums of rounded products may differ, see the module above.
pub(crate) const SUM: Bound = Bound::Sum { relative: -18 };

/// The two element types of A and B.
#[derive(Clone, Copy, PartialEq)]
enum Element {
    F16,
    Bf16,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    fn bits(self, value: f32) -> u16 {
        match self {
            Self::F16 => f16::from_f32(value).to_bits(),
            Self::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    fn value(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }
}

/// What the matrices hold.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    /// A has a single ±1 in each row, B counts: every place of A and B is seen in every place of D.
    OneHotA,
    /// The other way round.
    OneHotB,
    /// Small whole numbers: every sum is exact.
    Whole,
    /// Uniform in [-1, 1).
    Uniform,
    /// A in [0, 1), as probabilities are.
    Probabilities,
    /// Magnitudes from 2^-12 to 2^12.
    Wide,
    /// Uniform, with NaN, infinities and zeros among them.
    Special,
}

impl Fill {
    const ALL: [Self; 7] =
        [Self::OneHotA, Self::OneHotB, Self::Whole, Self::Uniform, Self::Probabilities, Self::Wide, Self::Special];

    fn name(self) -> &'static str {
        match self {
            Self::OneHotA => "one-hot A",
            Self::OneHotB => "one-hot B",
            Self::Whole => "whole numbers",
            Self::Uniform => "uniform",
            Self::Probabilities => "probabilities",
            Self::Wide => "wide",
            Self::Special => "special",
        }
    }

    fn warps(self) -> usize {
        match self {
            Self::OneHotA | Self::OneHotB => SIDE,
            Self::Uniform => 64,
            Self::Special => 16,
            _ => 32,
        }
    }

    fn bound(self) -> Bound {
        match self {
            Self::OneHotA | Self::OneHotB | Self::Whole => Bound::Exact,
            _ => SUM,
        }
    }
}

/// A (16 × 16), B (16 × columns) and C (16 × columns), row by row.
struct Matrices {
    a: Vec<u16>,
    b: Vec<u16>,
    c: Vec<f32>,
    columns: usize,
}

impl Matrices {
    fn new(element: Element, fill: Fill, warp: usize, columns: usize) -> Self {
        let mut numbers = Numbers::new(100 + warp as u32);
        let mut any = |first: bool| match fill {
            Fill::Whole => numbers.whole(4),
            Fill::Probabilities if first => numbers.signed_unit().abs(),
            Fill::Wide => {
                let exponent = numbers.below(25) as i32 - 12;
                numbers.signed_unit() * 2f32.powi(exponent)
            }
            Fill::Special => match numbers.below(128) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                3..8 => -0.0,
                _ => numbers.signed_unit(),
            },
            _ => numbers.signed_unit(),
        };
        // No larger than 256, which bf16 still holds exactly.
        let counting = |index: usize| (index % 256 + 1) as f32;
        let sign = |index: usize| if index.is_multiple_of(3) { -1.0 } else { 1.0 };
        let a = (0..SIDE * SIDE).map(|index| match fill {
            Fill::OneHotA if (index % SIDE + index / SIDE) % SIDE == warp % SIDE => sign(index),
            Fill::OneHotA => 0.0,
            Fill::OneHotB => counting(index),
            _ => any(true),
        });
        let a = a.map(|value| element.bits(value)).collect();
        let b = (0..SIDE * columns).map(|index| match fill {
            Fill::OneHotA => counting(index),
            Fill::OneHotB if (index / columns + index % columns) % SIDE == warp % SIDE => sign(index),
            Fill::OneHotB => 0.0,
            _ => any(false),
        });
        let b = b.map(|value| element.bits(value)).collect();
        let c = (0..SIDE * columns).map(|index| match fill {
            Fill::OneHotA | Fill::OneHotB => index as f32,
            _ => any(false),
        });
        let c = c.collect();
        Self { a, b, c, columns }
    }

    /// Σ|a·b| + |c| at a place of D, of so much of the depth.
    fn magnitude(&self, element: Element, depth: usize, row: usize, column: usize) -> f32 {
        (0..depth).fold(self.c[row * self.columns + column].abs(), |sum, depth| {
            let a = element.value(self.a[row * SIDE + depth]);
            let b = element.value(self.b[depth * self.columns + column]);
            sum + (a * b).abs()
        })
    }
}

pub(crate) fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    for element in [Element::F16, Element::Bf16] {
        for fill in Fill::ALL {
            all.push(mma(element, fill, SIDE));
        }
        for column_major in [false, true] {
            for fill in [Fill::OneHotA, Fill::OneHotB, Fill::Whole, Fill::Uniform] {
                all.push(wmma(element, fill, column_major, Form::Shared));
            }
        }
        for form in [Form::Generic, Form::Global] {
            all.push(wmma(element, Fill::Whole, false, form));
        }
        for fill in [Fill::OneHotA, Fill::OneHotB, Fill::Whole, Fill::Special] {
            all.push(half_depth(mma(element, fill, SIDE / 2)));
        }
    }
    for fill in [Fill::OneHotA, Fill::OneHotB, Fill::Whole] {
        let probe = half_accumulators(mma(Element::F16, fill, SIDE));
        all.push(half_depth(probe.clone()));
        all.push(probe);
    }
    all
}

/// The same probe with the first half of A's columns and of B's rows only.
fn half_depth(mut probe: Probe) -> Probe {
    for text in [&mut probe.name, &mut probe.ptx] {
        *text = text.replace("m16n8k16", "m16n8k8");
    }
    probe.ptx = probe.ptx.replace("{%r10, %r11, %r12, %r13}, {%r14, %r15}", "{%r10, %r11}, {%r14}");
    probe
}

/// The same probe with accumulators of f16, whose values must be exact there.
fn half_accumulators(mut probe: Probe) -> Probe {
    for text in [&mut probe.name, &mut probe.ptx] {
        *text = text.replace("f32.f16.f16.f32", "f16.f16.f16.f16");
    }
    probe.ptx = probe
        .ptx
        .replace("{%f4, %f5, %f6, %f7}, {", "{%r30, %r31}, {")
        .replace("{%f0, %f1, %f2, %f3}", "{%r20, %r21}")
        // C arrives as f32.
        .replace(
            "mov.b32 %f3, %r23;\n",
            "mov.b32 %f3, %r23;\ncvt.rn.f16x2.f32 %r20, %f1, %f0;\ncvt.rn.f16x2.f32 %r21, %f3, %f2;\n",
        );
    for (index, result) in [(0, "mov.u32 %r32, 0;"), (1, "mov.u32 %r33, 0;")] {
        probe.ptx = probe.ptx.replace(&format!("mov.b32 %r{}, %f{};", 30 + index, 4 + index), result);
        probe.ptx = probe.ptx.replace(&format!("mov.b32 %r{}, %f{};\n", 32 + index, 6 + index), "");
    }
    probe
}

/// A's, B's and C's elements in the registers that the manual names; sums are told for so much of the depth.
fn mma(element: Element, fill: Fill, depth: usize) -> Probe {
    const COLUMNS: usize = 8;
    let warps = fill.warps();
    let (mut first, mut third) = (vec![0; warps * 32 * FIRST], vec![0; warps * 32 * THIRD]);
    let mut magnitudes = vec![0.0; warps * 32 * 4];
    for warp in 0..warps {
        let matrices = Matrices::new(element, fill, warp, COLUMNS);
        let lane = |lane: usize| warp * 32 + lane;
        for (index, bits) in matrices.a.iter().enumerate() {
            let (row, column) = (index / SIDE, index % SIDE);
            let register = row / 8 + column / 8 * 2;
            first[lane(row % 8 * 4 + column % 8 / 2) * FIRST + register] |= u32::from(*bits) << (16 * (column % 2));
        }
        for (index, bits) in matrices.b.iter().enumerate() {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            let register = 4 + row / 8;
            first[lane(column * 4 + row % 8 / 2) * FIRST + register] |= u32::from(*bits) << (16 * (row % 2));
        }
        for (index, value) in matrices.c.iter().enumerate() {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            let (lane, register) = (lane(row % 8 * 4 + column / 2), row / 8 * 2 + column % 2);
            third[lane * THIRD + register] = value.to_bits();
            magnitudes[lane * 4 + register] = matrices.magnitude(element, depth, row, column);
        }
    }
    let name = element.name();
    let spelling = format!("mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32");
    let moves = |to: &str, from: &str, to_base: usize, from_base: usize| -> String {
        (0..4).map(|index| format!("mov.b32 {to}{}, {from}{};\n", to_base + index, from_base + index)).collect()
    };
    let body = format!(
        "{}{spelling} {{%f4, %f5, %f6, %f7}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%f0, %f1, %f2, %f3}};\n{}",
        moves("%f", "%r", 0, 20),
        moves("%r", "%f", 30, 4),
    );
    build(Parts {
        name: format!("{spelling} {}", fill.name()),
        target: "sm_80",
        body: &body,
        warps,
        first,
        image: Vec::new(),
        third,
        results: 4,
        bound: fill.bound(),
        magnitudes: if fill.bound() == SUM { magnitudes } else { Vec::new() },
    })
}

/// How fragments are addressed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Shared,
    Generic,
    Global,
}

/// A, B and C lie in the image, one after the other; D replaces C.
fn wmma(element: Element, fill: Fill, column_major: bool, form: Form) -> Probe {
    // B's at 512 bytes, C's at 1024.
    const B_WORD: usize = 128;
    const C_WORD: usize = 256;
    let warps = fill.warps();
    let mut image = vec![0; warps * IMAGE];
    let mut magnitudes = vec![0.0; warps * SIDE * SIDE];
    for (warp, image) in image.chunks_exact_mut(IMAGE).enumerate() {
        let matrices = Matrices::new(element, fill, warp, SIDE);
        for index in 0..SIDE * SIDE {
            let (row, column) = (index / SIDE, index % SIDE);
            let half = |index: usize, bits: u16| u32::from(bits) << (16 * (index % 2));
            image[index / 2] |= half(index, matrices.a[index]);
            let at = if column_major { column * SIDE + row } else { index };
            image[B_WORD + at / 2] |= half(at, matrices.b[index]);
            image[C_WORD + index] = matrices.c[index].to_bits();
            magnitudes[warp * SIDE * SIDE + index] = matrices.magnitude(element, SIDE, row, column);
        }
    }
    let layout = if column_major { "col" } else { "row" };
    let kind = element.name();
    let space = match form {
        Form::Shared => ".shared",
        Form::Generic => "",
        Form::Global => ".global",
    };
    let (set_up, base) = match form {
        Form::Shared => ("", "%r2"),
        Form::Generic => ("cvt.u64.u32 %rd16, %r2;\ncvta.shared.u64 %rd16, %rd16;\n", "%rd16"),
        // The warp's part of the second input, which the image is a copy of.
        Form::Global => ("mul.wide.u32 %rd16, %r1, 64;\nsub.s64 %rd16, %rd12, %rd16;\n", "%rd16"),
    };
    let list = |from: usize, count: usize, bank: &str| -> String {
        (from..from + count).map(|index| format!("{bank}{index}")).collect::<Vec<_>>().join(", ")
    };
    // Both halves of an f16 fragment's elements are there twice.
    let (count, types) = if element == Element::F16 { (8, "f32.f32") } else { (4, "f32.bf16.bf16.f32") };
    let (a, b, c, d) = (list(4, count, "%r"), list(12, count, "%r"), list(0, 8, "%f"), list(8, 8, "%f"));
    let multiply = format!("wmma.mma.sync.aligned.row.{layout}.m16n16k16.{types}");
    // Inputs are not to be overwritten, so what is not in shared memory stores there.
    let (store_space, store_base) = if form == Form::Global { (".shared", "%r2") } else { (space, base) };
    let body = format!(
        "{set_up}wmma.load.a.sync.aligned.row.m16n16k16{space}.{kind} {{{a}}}, [{base}], 16;\n\
         wmma.load.b.sync.aligned.{layout}.m16n16k16{space}.{kind} {{{b}}}, [{base}+512], 16;\n\
         wmma.load.c.sync.aligned.row.m16n16k16{space}.f32 {{{c}}}, [{base}+1024], 16;\n\
         {multiply} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};\nbar.warp.sync -1;\n\
         wmma.store.d.sync.aligned.row.m16n16k16{store_space}.f32 [{store_base}+1024], {{{d}}}, 16;\nbar.warp.sync -1;\n\
         shl.b32 %r4, %r1, 5;\nadd.s32 %r4, %r2, %r4;\nld.shared.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r4+1024];\n\
         ld.shared.v4.u32 {{%r34, %r35, %r36, %r37}}, [%r4+1040];"
    );
    let form = match form {
        Form::Shared => "shared",
        Form::Generic => "generic",
        Form::Global => "global",
    };
    build(Parts {
        name: format!("{multiply} {kind} {form} {}", fill.name()),
        target: "sm_80",
        body: &body,
        warps,
        first: Vec::new(),
        image,
        third: Vec::new(),
        results: 8,
        bound: fill.bound(),
        magnitudes: if fill.bound() == SUM { magnitudes } else { Vec::new() },
    })
}
