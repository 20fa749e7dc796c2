//! wmma of every shape, layout and accumulator: small whole numbers, whose sums are exact, told by a number for each
//! lane that changes with all it reads back.

use half::{bf16, f16};

use crate::Probe;
use crate::block::{Parts, build};
use crate::inputs::Numbers;

/// A warp's bytes of the image: A at 0, B at 1024, C at 2048; D replaces what was at 3072.
const WARP_BYTES: usize = 4096;
const WARPS: usize = 4;

fn probe(rows: usize, columns: usize, a: &str, b: &str, accumulator: &str, factor: &str) -> Probe {
    let mut numbers = Numbers::new(700);
    let half = |value: f32| match factor {
        "f16" => u32::from(f16::from_f32(value).to_bits()),
        _ => u32::from(bf16::from_f32(value).to_bits()),
    };
    let image = (0..WARPS * WARP_BYTES / 4)
        .map(|word| {
            let value = numbers.whole(4);
            let single = accumulator == "f32" && word % 1024 >= 512;
            if single { value.to_bits() } else { half(value) | half(numbers.whole(4)) << 16 }
        })
        .collect();
    let shape = format!("m{rows}n{columns}k16");
    let list = |bank: &str, first: usize, count: usize| -> String {
        (first..first + count).map(|index| format!("{bank}{index}")).collect::<Vec<_>>().join(", ")
    };
    let (a_count, b_count) = if factor == "f16" { (8, 8) } else { (rows / 4, columns / 4) };
    let (bank, sums) = if accumulator == "f32" { ("%f", 8) } else { ("%r", 4) };
    let (a_list, b_list) = (list("%r", 100, a_count), list("%r", 110, b_count));
    let (c_list, d_list) = (list(bank, 120, sums), list(bank, 130, sums));
    let types = if factor == "f16" {
        format!("{accumulator}.{accumulator}")
    } else {
        format!("{accumulator}.{factor}.{factor}.{accumulator}")
    };
    // The sum's layouts follow the factors': both are seen.
    let (c, d) = (b, a);
    let stride = |layout: &str, across: usize, along: usize| if layout == "row" { across } else { along };
    let mut body = format!(
        "shr.u32 %r20, %r1, 5;\nmul.lo.u32 %r20, %r20, {WARP_BYTES};\nadd.s32 %r20, %r2, %r20;\n\
         wmma.load.a.sync.aligned.{a}.{shape}.shared.{factor} {{{a_list}}}, [%r20], {};\n\
         wmma.load.b.sync.aligned.{b}.{shape}.shared.{factor} {{{b_list}}}, [%r20+1024], {};\n\
         wmma.load.c.sync.aligned.{c}.{shape}.shared.{accumulator} {{{c_list}}}, [%r20+2048], {};\n\
         wmma.mma.sync.aligned.{a}.{b}.{shape}.{types} {{{d_list}}}, {{{a_list}}}, {{{b_list}}}, {{{c_list}}};\n\
         wmma.store.d.sync.aligned.{d}.{shape}.shared.{accumulator} [%r20+3072], {{{d_list}}}, {};\nbar.warp.sync -1;\n\
         and.b32 %r21, %r1, 31;\nmad.lo.u32 %r21, %r21, 32, %r20;\nmov.u32 %r30, 1;\n",
        stride(a, 16, rows),
        stride(b, columns, 16),
        stride(c, columns, rows),
        stride(d, columns, rows),
    );
    for word in 0..8 {
        body += &format!("ld.shared.u32 %r22, [%r21+{}];\nmad.lo.s32 %r30, %r30, 31, %r22;\n", 3072 + 4 * word);
    }
    build(Parts {
        name: format!("wmma.mma.sync.aligned.{a}.{b}.{shape}.{types} {factor}"),
        body: &body,
        image_bytes: WARPS * WARP_BYTES,
        image,
        ..Parts::default()
    })
}

pub(crate) fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    for (rows, columns) in [(16, 16), (32, 8), (8, 32)] {
        for a in ["row", "col"] {
            for b in ["row", "col"] {
                for (accumulator, factor) in [("f32", "f16"), ("f16", "f16"), ("f32", "bf16")] {
                    all.push(probe(rows, columns, a, b, accumulator, factor));
                }
            }
        }
    }
    all
}
