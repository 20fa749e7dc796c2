//! Every probe runs; facts about single operations hold.

use ptx_interp::{Launch, Memory, Module};
use ptx_probes::{BLOCK, Probe, probes};

pub(crate) fn run(probe: &Probe) -> Vec<u8> {
    let kernel = Module::parse(&probe.ptx).expect("parses").kernel("probe").unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let mut params = Vec::new();
    let mut addresses = [0; 4];
    for ((name, input), place) in ["a", "b", "c"].into_iter().zip(&probe.inputs).zip(&mut addresses) {
        *place = memory.allocate(name, input.len(), 256);
        memory.write(*place, input).expect("just allocated");
    }
    addresses[3] = memory.allocate("out", probe.output_bytes, 256);
    for (index, map) in probe.maps.iter().enumerate() {
        let bytes = map.at(addresses).encode().unwrap_or_else(|error| panic!("{}: {error}", probe.name));
        memory.write(addresses[2] + 128 * index as u64, &bytes).expect("room for the maps");
    }
    params.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
    params.extend(probe.threads.to_le_bytes());
    if let Some(map) = &probe.map_parameter {
        params.resize(params.len().next_multiple_of(64), 0);
        params.extend(map.at(addresses).encode().unwrap_or_else(|error| panic!("{}: {error}", probe.name)));
    }
    let mut launch = Launch::new([probe.blocks(), 1, 1], [BLOCK, 1, 1]);
    launch.params = params;
    let report = launch.run(&kernel, &mut memory).expect("is accepted");
    assert!(report.is_clean(), "{}: {:#?}", probe.name, report.findings);
    memory.read_vec(addresses[3], probe.output_bytes).expect("output is there")
}

/// The result of a probe whose inputs are replaced by these.
fn apply(name: &str, inputs: [u32; 3]) -> u32 {
    let mut probe = probes().into_iter().find(|probe| probe.name == name).expect("there is such a probe");
    // Shuffles and votes need whole warps.
    probe.inputs = inputs.map(|value| value.to_le_bytes().repeat(32));
    (probe.output_bytes, probe.threads) = (128, 32);
    u32::from_le_bytes(run(&probe)[..4].try_into().expect("four bytes"))
}

#[test]
fn every_probe_decodes_and_runs() {
    for probe in probes() {
        run(&probe);
    }
}

/// Facts found on an H200.
#[test]
fn the_device_has_its_own_mind_about_floats() {
    let nan = 0x7fff_ffff;
    let one = 1f32.to_bits();
    for name in
        ["add.f32", "mul.f32", "fma.rn.f32", "neg.f32", "abs.f32", "rcp.rn.f32", "sqrt.rn.f32", "lg2.approx.f32"]
    {
        assert_eq!(apply(name, [0x7fc0_1234, one, one]), nan, "{name}");
    }
    assert_eq!(apply("sqrt.rn.f32", [(-1f32).to_bits(), 0, 0]), nan);
    assert_eq!(apply("max.f32", [0x8000_0000, 0, 0]), 0);
    assert_eq!(apply("min.f32", [0, 0x8000_0000, 0]), 0x8000_0000);
    assert_eq!(apply("max.f32", [0x7fc0_0000, one, 0]), one);
    assert_eq!(apply("max.NaN.f32", [0x7fc0_0000, one, 0]), nan);
    // 2^-127 is subnormal, and flushed only where asked for.
    assert_eq!(apply("ex2.approx.f32", [(-127f32).to_bits(), 0, 0]), 0x0040_0000);
    assert_eq!(apply("ex2.approx.ftz.f32", [(-127f32).to_bits(), 0, 0]), 0);
    assert_eq!(apply("div.approx.f32", [f32::MAX.to_bits(), 0x7e80_0001, 0]), 0);
    assert_eq!(apply("cvt.sat.f32.f32", [0x8000_0000, 0, 0]), 0);
    assert_eq!(apply("fma.rm.f32", [0, 33, 0x8000_0000]), 0x8000_0000);
    assert_eq!(apply("cvt.rn.f16x2.f32", [0xffc0_0000, one, 0]), 0x7fff_3c00);
    assert_eq!(apply("cvt.rn.bf16x2.f32", [0xffc0_0000, one, 0]), 0x7fff_3f80);
}

#[test]
fn integers_and_bits() {
    assert_eq!(apply("shl.b32", [1, 32, 0]), 0);
    assert_eq!(apply("shr.s32", [0x8000_0000, 40, 0]), u32::MAX);
    assert_eq!(apply("shr.u32", [0x8000_0000, 32, 0]), 0);
    assert_eq!(apply("bfi.b32", [0x1ff, 0, 4]), 0x7f0);
    assert_eq!(apply("bfe.s32", [0xf0, 4, 4]), u32::MAX);
    assert_eq!(apply("bfe.u32", [0xf0, 4, 4]), 15);
    assert_eq!(apply("prmt.b32", [0x0403_0201, 0x0807_0605, 0x7531]), 0x0806_0402);
    assert_eq!(apply("prmt.b32", [0x0000_0080, 0, 0x8888]), u32::MAX);
    assert_eq!(apply("lop3.b32", [0b1100, 0b1010, 0b1111]), 0b1100 ^ 0b1010 ^ 0b1111);
    assert_eq!(apply("shf.l.wrap.b32", [0x8000_0000, 1, 1]), 3);
    assert_eq!(apply("mul.hi.s32", [0xffff_ffff, 2, 0]), u32::MAX);
    assert_eq!(apply("bfind.s32", [0xffff_fff0, 0, 0]), 3);
    assert_eq!(apply("cvt.rzi.s32.f32", [1e20f32.to_bits(), 0, 0]), i32::MAX as u32);
    assert_eq!(apply("cvt.rzi.u32.f32", [(-1f32).to_bits(), 0, 0]), 0);
    assert_eq!(apply("cvt.rzi.s32.f32", [0x7fc0_0000, 0, 0]), 0);
    assert_eq!(apply("cvt.rni.s32.f32", [2.5f32.to_bits(), 0, 0]), 2);
}

#[test]
fn halves_round_once() {
    // 1 + 2^-11 lies half way between two halves: to even.
    assert_eq!(apply("cvt.rn.f16.f32", [(1.0f32 + 2f32.powi(-11)).to_bits(), 0, 0]) & 0xffff, 0x3c00);
    assert_eq!(apply("cvt.rn.f16.f32", [65520f32.to_bits(), 0, 0]) & 0xffff, 0x7c00);
    assert_eq!(apply("cvt.rn.f16.f32", [2f32.powi(-24).to_bits(), 0, 0]) & 0xffff, 1);
    assert_eq!(apply("cvt.rn.f16.f32", [2f32.powi(-25).to_bits(), 0, 0]) & 0xffff, 0);
    assert_eq!(apply("add.f16x2", [0x3c00_3c00, 0x3c00_4000, 0]), 0x4000_4200);
    assert_eq!(apply("fma.rn.bf16x2", [0x3f80_3f80, 0x4000_4000, 0x3f80_0000]), 0x4040_4000);
    for bits in (0..=u16::MAX).step_by(37) {
        let expected = half::f16::from_bits(bits).to_f32();
        let found = f32::from_bits(apply_cheap(bits));
        assert!(found == expected || found.is_nan() && expected.is_nan(), "{bits:#x}");
    }
}

/// `cvt.f32.f16` through one decoded kernel would be slow for all values; the conversion of a pair is the same code.
fn apply_cheap(bits: u16) -> u32 {
    use std::sync::OnceLock;
    static TABLE: OnceLock<Vec<u32>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut probe = probes().into_iter().find(|probe| probe.name == "cvt.f32.f16").expect("there is such a probe");
        let values: Vec<u8> = (0..=u32::from(u16::MAX)).flat_map(|value| value.to_le_bytes()).collect();
        probe.inputs = [values.clone(), values.clone(), values];
        (probe.output_bytes, probe.threads) = (4 << 16, 1 << 16);
        run(&probe).chunks_exact(4).map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
    });
    table[usize::from(bits)]
}
