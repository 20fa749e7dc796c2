//! wgmma of every width, with both operands in every layout. Small whole numbers, whose sums are exact, are told by a
//! number for each thread and layout that changes with every accumulator and its place; rounded sums are told whole.

use half::{bf16, f16};

use crate::Probe;
use crate::block::{Parts, build};
use crate::inputs::Numbers;

/// Bytes of A: 64 rows of depth 64, or depth 64 of 64 rows.
const A_BYTES: usize = 8192;
/// Bytes of A and of B with 256 columns.
const IMAGE_BYTES: usize = A_BYTES + 32768;

/// A swizzle by its bits in a descriptor.
#[derive(Clone, Copy, PartialEq)]
struct Swizzle {
    name: &'static str,
    bits: u64,
    /// Bytes of a line.
    span: usize,
}

const NONE: Swizzle = Swizzle { name: "no swizzle", bits: 0, span: 16 };
const SWIZZLE_32: Swizzle = Swizzle { name: "32 B swizzle", bits: 3, span: 32 };
const SWIZZLE_64: Swizzle = Swizzle { name: "64 B swizzle", bits: 2, span: 64 };
const SWIZZLE_128: Swizzle = Swizzle { name: "128 B swizzle", bits: 1, span: 128 };

/// Types of the accumulators and of the factors.
#[derive(Clone, Copy, PartialEq)]
struct Types {
    accumulator: &'static str,
    factor: &'static str,
}

const F16: Types = Types { accumulator: "f32", factor: "f16" };
const BF16: Types = Types { accumulator: "f32", factor: "bf16" };
const F16_ONLY: Types = Types { accumulator: "f16", factor: "f16" };

impl Types {
    fn bits(self, value: f32) -> u16 {
        if self.factor == "f16" { f16::from_f32(value).to_bits() } else { bf16::from_f32(value).to_bits() }
    }

    fn value(self, bits: u16) -> f32 {
        if self.factor == "f16" { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
    }

    fn registers(self, columns: usize) -> usize {
        if self.accumulator == "f32" { columns / 2 } else { columns / 4 }
    }

    fn list(self, columns: usize) -> String {
        let bank = if self.accumulator == "f32" { "%f" } else { "%r" };
        let first = if self.accumulator == "f32" { 0 } else { 60 };
        let list: Vec<_> = (0..self.registers(columns)).map(|index| format!("{bank}{}", first + index)).collect();
        list.join(", ")
    }
}

/// A descriptor of a matrix, less its address, and the bytes from one depth of 16 to the next.
fn layout(swizzle: Swizzle, mn_major: bool, outer: usize) -> (u64, usize) {
    let span = swizzle.span;
    let (leading, stride, step) = match (mn_major, swizzle.bits) {
        (false, 0) => (128, 1024, 256),
        // A line holds one depth of 16: the next lies behind all rows.
        (false, 3) => (16, 8 * span, outer * span),
        (false, _) => (16, 8 * span, 32),
        (true, 0) => (128, 1024, 256),
        (true, _) => (64 * span, 8 * span, 16 * span),
    };
    (swizzle.bits << 62 | ((stride >> 4) as u64) << 32 | ((leading >> 4) as u64) << 16, step)
}

/// Statements that make a descriptor of the matrix at `%r2 + at`.
fn descriptor(register: &str, at: usize, bits: u64) -> String {
    format!(
        "add.s32 %r20, %r2, {at};\nbfe.u32 %r20, %r20, 4, 14;\ncvt.u64.u32 {register}, %r20;\nor.b64 {register}, {register}, {bits:#x};\n"
    )
}

/// Two depths of 16, the second on top of the first.
#[derive(Clone, Copy)]
struct Section {
    a: Option<bool>,
    b_mn_major: bool,
    scale_a: i32,
    scale_b: i32,
}

const SECTIONS: [Section; 4] = [
    Section { a: Some(false), b_mn_major: false, scale_a: 1, scale_b: 1 },
    Section { a: Some(true), b_mn_major: true, scale_a: -1, scale_b: 1 },
    Section { a: None, b_mn_major: false, scale_a: 1, scale_b: -1 },
    Section { a: None, b_mn_major: true, scale_a: 1, scale_b: 1 },
];

fn section(types: Types, columns: usize, swizzle: Swizzle, section: Section) -> String {
    let (b_bits, b_step) = layout(swizzle, section.b_mn_major, columns);
    let spelling = format!("wgmma.mma_async.sync.aligned.m64n{columns}k16.{}.{1}.{1}", types.accumulator, types.factor);
    let list = types.list(columns);
    let mut text = String::new();
    for depth in 0..2 {
        text += &descriptor("%rd21", A_BYTES + depth * b_step, b_bits);
        if let Some(mn_major) = section.a {
            let (bits, step) = layout(swizzle, mn_major, 64);
            text += &descriptor("%rd20", depth * step, bits);
        }
        if depth == 0 {
            text += "wgmma.fence.sync.aligned;\nsetp.ne.u32 %p1, %r2, %r2;\n";
        } else {
            text += "setp.eq.u32 %p1, %r2, %r2;\n";
        }
        let Section { scale_a, scale_b, .. } = section;
        let b_transposed = u8::from(section.b_mn_major);
        text += &match section.a {
            Some(mn_major) => format!(
                "{spelling} {{{list}}}, %rd20, %rd21, %p1, {scale_a}, {scale_b}, {}, {b_transposed};\n",
                u8::from(mn_major)
            ),
            None => format!(
                "{spelling} {{{list}}}, {{%r10, %r11, %r12, %r13}}, %rd21, %p1, {scale_a}, {scale_b}, {b_transposed};\n"
            ),
        };
    }
    text + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
}

/// `%r{into}` = a number made of all accumulators.
fn fold(types: Types, columns: usize, into: usize) -> String {
    let mut text = format!("mov.u32 %r{into}, 1;\n");
    for index in 0..types.registers(columns) {
        let value = if types.accumulator == "f32" {
            text += &format!("cvt.rni.s32.f32 %r21, %f{index};\n");
            "%r21".to_owned()
        } else {
            format!("%r{}", 60 + index)
        };
        text += &format!("mad.lo.s32 %r{into}, %r{into}, 31, {value};\n");
    }
    text
}

fn pairs(types: Types, count: usize, mut value: impl FnMut() -> f32) -> Vec<u32> {
    (0..count).map(|_| u32::from(types.bits(value())) | u32::from(types.bits(value())) << 16).collect()
}

fn whole(types: Types, columns: usize, swizzle: Swizzle) -> Probe {
    let mut numbers = Numbers::new(300 + columns as u32);
    let image = pairs(types, IMAGE_BYTES / 4, || numbers.whole(3)).repeat(SECTIONS.len());
    let second = pairs(types, 128 * 4, || numbers.whole(3)).repeat(SECTIONS.len());
    // A block for each: one after the other, ptxas takes the later accumulators for the first ones.
    let mut body = String::new();
    for (index, &part) in SECTIONS.iter().enumerate() {
        body += &format!("setp.ne.u32 %p2, %r3, {index};\n@%p2 bra PAST{index};\n");
        body += &section(types, columns, swizzle, part);
        body += &fold(types, columns, 30);
        body += &format!("bra DONE;\nPAST{index}:\n");
    }
    body += "mov.u32 %r30, 0;\nDONE:\n";
    build(Parts {
        name: format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.{}.{1}.{1} {2}",
            types.accumulator, types.factor, swizzle.name
        ),
        body: &body,
        blocks: SECTIONS.len() as u32,
        image_bytes: IMAGE_BYTES,
        image,
        second,
        results: 1,
        ..Parts::default()
    })
}

/// One depth of 16 columns: rounded sums of A and B in shared memory, K-major with a swizzle of 128 bytes.
fn rounded(types: Types) -> Probe {
    const COLUMNS: usize = 16;
    const BLOCKS: usize = 4;
    const IMAGE: usize = A_BYTES + 2048;
    let mut numbers = Numbers::new(400);
    let image = pairs(types, BLOCKS * IMAGE / 4, || numbers.signed_unit());
    let (bits, _) = layout(SWIZZLE_128, false, 64);
    let spelling = format!("wgmma.mma_async.sync.aligned.m64n{COLUMNS}k16.{}.{1}.{1}", types.accumulator, types.factor);
    let mut body = descriptor("%rd20", 0, bits) + &descriptor("%rd21", A_BYTES, bits);
    body += &format!(
        "wgmma.fence.sync.aligned;\n{spelling} {{{}}}, %rd20, %rd21, 0, 1, 1, 0, 0;\nwgmma.commit_group.sync.aligned;\n\
         wgmma.wait_group.sync.aligned 0;\n",
        types.list(COLUMNS)
    );
    for index in 0..8 {
        body += &format!("mov.b32 %r{}, %f{index};\n", 30 + index);
    }
    let element = |block: usize, at: usize, line: usize, depth: usize| {
        let place = line / 8 * 1024 + line % 8 * 128 + ((depth / 8) ^ (line % 8)) * 16 + depth % 8 * 2;
        let word = image[(block * IMAGE + at + place) / 4];
        types.value((word >> (8 * (place & 2))) as u16)
    };
    let mut magnitudes = Vec::with_capacity(BLOCKS * 128 * 8);
    for word in 0..BLOCKS * 128 * 8 {
        let (block, thread, register) = (word / 1024, word / 8 % 128, word % 8);
        let row = thread / 32 * 16 + thread % 32 / 4 + register % 4 / 2 * 8;
        let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
        magnitudes.push(
            (0..16).map(|depth| (element(block, 0, row, depth) * element(block, A_BYTES, column, depth)).abs()).sum(),
        );
    }
    build(Parts {
        name: format!("{spelling} uniform"),
        body: &body,
        blocks: BLOCKS as u32,
        image_bytes: IMAGE,
        image,
        results: 8,
        bound: super::matrix::SUM,
        magnitudes,
        ..Parts::default()
    })
}

pub(crate) fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    for columns in (8..=256).step_by(8) {
        all.extend([F16, BF16, F16_ONLY].map(|types| whole(types, columns, SWIZZLE_128)));
    }
    for columns in [8, 64, 96, 256] {
        all.extend([NONE, SWIZZLE_32, SWIZZLE_64].map(|swizzle| whole(F16, columns, swizzle)));
    }
    all.extend([F16, BF16].map(rounded));
    all
}
