//! The kernels in `tests/fixtures`, each with inputs, and what it should compute.

use std::time::{Duration, Instant};

use half::f16;
use ptx_interp::{ElementType, Launch, Memory, Module, OutOfBoundsFill, Report, Swizzle, TensorMapDescription};

/// A kernel and how to launch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixture {
    ColumnSums,
    PipelinedSums,
    RunningMaximum,
    WmmaProduct,
    MmaProduct,
    WgmmaProduct,
    ClusterExchange,
    LastBlock,
}

pub(crate) const ALL: [Fixture; 8] = [
    Fixture::ColumnSums,
    Fixture::PipelinedSums,
    Fixture::RunningMaximum,
    Fixture::WmmaProduct,
    Fixture::MmaProduct,
    Fixture::WgmmaProduct,
    Fixture::ClusterExchange,
    Fixture::LastBlock,
];

/// Not a multiple of the tile, and more than three tiles long.
const ROWS: usize = 107;
const SIZE: usize = 64;
const DEPTH: usize = 256;

pub(crate) struct Outcome {
    pub report: Report,
    /// How long the launch took. Only the bench asks.
    #[allow(dead_code)]
    pub elapsed: Duration,
    /// Whether the results are those of the reference.
    pub right: bool,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

impl Fixture {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ColumnSums => "column_sums",
            Self::PipelinedSums => "pipelined_sums",
            Self::RunningMaximum => "running_maximum",
            Self::WmmaProduct => "wmma_product",
            Self::MmaProduct => "mma_product",
            Self::WgmmaProduct => "wgmma_product",
            Self::ClusterExchange => "cluster_exchange",
            Self::LastBlock => "last_block",
        }
    }

    pub(crate) fn ptx(self) -> &'static str {
        match self {
            Self::ColumnSums => include_str!("../fixtures/column_sums.ptx"),
            Self::PipelinedSums => include_str!("../fixtures/pipelined_sums.ptx"),
            Self::RunningMaximum => include_str!("../fixtures/running_maximum.ptx"),
            Self::WmmaProduct => include_str!("../fixtures/wmma_product.ptx"),
            Self::MmaProduct => include_str!("../fixtures/mma_product.ptx"),
            Self::WgmmaProduct => include_str!("../fixtures/wgmma_product.ptx"),
            Self::ClusterExchange => include_str!("../fixtures/cluster_exchange.ptx"),
            Self::LastBlock => include_str!("../fixtures/last_block.ptx"),
        }
    }

    /// Runs a text of this kernel, perhaps a changed one.
    pub(crate) fn run(self, ptx: &str, seed: u64) -> Outcome {
        self.run_with(ptx, seed, |_| {})
    }

    pub(crate) fn run_with(self, ptx: &str, seed: u64, change: impl Fn(&mut Launch)) -> Outcome {
        let module = Module::parse(ptx).expect("fixture parses");
        let kernel = module.kernel(self.name()).expect("fixture decodes");
        let mut memory = Memory::new();
        let mut setup = Setup::new(self, &mut memory);
        setup.launch.seed = seed;
        setup.launch.limits.instructions = 2_000_000;
        change(&mut setup.launch);
        let start = Instant::now();
        let report = setup.launch.run(&kernel, &mut memory).expect("launch is accepted");
        let elapsed = start.elapsed();
        let bytes = memory.read_vec(setup.out, setup.expected.len() * setup.element).expect("output is there");
        let right = setup.expected.iter().enumerate().all(|(index, expected)| {
            let bytes = &bytes[index * setup.element..(index + 1) * setup.element];
            let found = match setup.kind {
                Kind::Half => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
                Kind::Single => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
                Kind::Integer => f64::from(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            };
            found == *expected
        });
        Outcome { report, elapsed, right, bytes }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Half,
    Single,
    Integer,
}

struct Setup {
    launch: Launch,
    out: u64,
    expected: Vec<f64>,
    element: usize,
    kind: Kind,
}

/// Small integers: every sum and product is exact, so results do not depend on the order of additions.
fn integers(count: usize, salt: usize) -> Vec<f64> {
    (0..count).map(|index| ((index * 7 + index / 5 * 3 + salt) % 5) as f64 - 2.0).collect()
}

fn singles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect()
}

fn halves(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| f16::from_f64(*value).to_le_bytes()).collect()
}

fn whole(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| (*value as i32).to_le_bytes()).collect()
}

fn upload(memory: &mut Memory, name: &str, bytes: &[u8]) -> u64 {
    let address = memory.allocate(name, bytes.len(), 256);
    memory.write(address, bytes).expect("just allocated");
    address
}

fn words(addresses: &[u64], integers: &[i32]) -> Vec<u8> {
    let mut params: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    params.extend(integers.iter().flat_map(|value| value.to_le_bytes()));
    params
}

fn map(address: u64, width: u64, height: u64) -> TensorMapDescription {
    TensorMapDescription {
        address,
        element: ElementType::F16,
        dims: vec![width, height],
        strides: vec![width * 2],
        box_dims: vec![64, 64],
        element_strides: vec![1, 1],
        swizzle: Swizzle::Bytes128,
        fill: OutOfBoundsFill::Zeros,
    }
}

impl Setup {
    fn new(fixture: Fixture, memory: &mut Memory) -> Self {
        match fixture {
            Fixture::ColumnSums | Fixture::PipelinedSums => Self::sums(fixture, memory),
            Fixture::RunningMaximum => {
                let values = integers(9, 1);
                let input = upload(memory, "in", &singles(&values));
                let out = memory.allocate("out", 8, 256);
                let mut launch = Launch::new([1, 1, 1], [64, 1, 1]);
                launch.params = words(&[input, out], &[9]);
                let expected = vec![values.iter().copied().fold(-1e30, f64::max), values.iter().sum()];
                Self { launch, out, expected, element: 4, kind: Kind::Single }
            }
            Fixture::WmmaProduct => {
                let (a, b) = (integers(2 * SIZE * SIZE, 0), integers(2 * SIZE * SIZE, 3));
                let addresses = [upload(memory, "a", &halves(&a)), upload(memory, "b", &halves(&b))];
                let out = memory.allocate("c", 2 * SIZE * SIZE * 4, 256);
                let mut launch = Launch::new([2, 1, 1], [128, 1, 1]);
                launch.params = words(&[addresses[0], addresses[1], out], &[]);
                let expected = products(&a, &b, SIZE, |column, depth| column * SIZE + depth);
                Self { launch, out, expected, element: 4, kind: Kind::Single }
            }
            Fixture::MmaProduct => {
                let (a, b) = (integers(2 * SIZE * DEPTH, 0), integers(2 * SIZE * DEPTH, 3));
                let addresses = [upload(memory, "a", &halves(&a)), upload(memory, "b", &halves(&b))];
                let out = memory.allocate("c", 2 * SIZE * SIZE * 4, 256);
                let mut launch = Launch::new([2, 1, 1], [128, 1, 1]);
                launch.dynamic_shared = 4 * (SIZE * SIZE * 2) as u32;
                launch.params = words(&[addresses[0], addresses[1], out], &[DEPTH as i32]);
                let expected = products(&a, &b, DEPTH, |column, depth| depth * SIZE + column);
                Self { launch, out, expected, element: 4, kind: Kind::Single }
            }
            Fixture::WgmmaProduct => {
                let (a, b) = (integers(2 * SIZE * DEPTH, 0), integers(SIZE * DEPTH, 3));
                let left = upload(memory, "left", &halves(&a));
                let right = upload(memory, "right", &halves(&b));
                let out = memory.allocate("product", 2 * SIZE * SIZE * 2, 256);
                let mut launch = Launch::new([2, 1, 1], [256, 1, 1]);
                launch.dynamic_shared = 4 * (SIZE * SIZE * 2) as u32;
                for map in [map(left, DEPTH as u64, 128), map(right, 64, DEPTH as u64), map(out, 64, 128)] {
                    launch.params.extend(map.encode().expect("map is valid"));
                }
                launch.params.extend((DEPTH as i32).to_le_bytes());
                let both = [b.clone(), b].concat();
                let expected = products(&a, &both, DEPTH, |column, depth| depth * SIZE + column);
                Self { launch, out, expected, element: 2, kind: Kind::Half }
            }
            Fixture::ClusterExchange => {
                let values = integers(4 * 64, 2);
                let input = upload(memory, "in", &whole(&values));
                let out = memory.allocate("out", 4 * 64 * 4, 256);
                let mut launch = Launch::new([4, 1, 1], [64, 1, 1]);
                launch.params = words(&[input, out], &[]);
                launch.cluster = Some([2, 1, 1]);
                let expected = (0..256).map(|index| values[((index / 64) ^ 1) * 64 + 63 - index % 64]).collect();
                Self { launch, out, expected, element: 4, kind: Kind::Integer }
            }
            Fixture::LastBlock => {
                let values = integers(6 * 64, 2);
                let input = upload(memory, "in", &whole(&values));
                let parts = memory.allocate("parts", 6 * 4, 256);
                let finished = upload(memory, "finished", &[0; 4]);
                let out = memory.allocate("out", 4, 256);
                let mut launch = Launch::new([6, 1, 1], [64, 1, 1]);
                launch.params = words(&[input, parts, finished, out], &[]);
                Self { launch, out, expected: vec![values.iter().sum()], element: 4, kind: Kind::Integer }
            }
        }
    }

    fn sums(fixture: Fixture, memory: &mut Memory) -> Self {
        let values = integers(2 * ROWS * SIZE, 0);
        let input = upload(memory, "in", &singles(&values));
        let pieces = if fixture == Fixture::PipelinedSums { 2 } else { 1 };
        let out = memory.allocate("out", 2 * pieces * SIZE * 4, 256);
        let mut expected = vec![0.0; 2 * pieces * SIZE];
        for (index, value) in values.iter().enumerate() {
            let (block, row, column) = (index / (ROWS * SIZE), index / SIZE % ROWS, index % SIZE);
            let piece = if pieces == 2 { row % 32 / 16 } else { 0 };
            expected[(block * pieces + piece) * SIZE + column] += value;
        }
        let mut launch = Launch::new([2, 1, 1], [128, 1, 1]);
        launch.params = words(&[input, out], &[ROWS as i32]);
        Self { launch, out, expected, element: 4, kind: Kind::Single }
    }
}

/// Two products of a 64×depth matrix and one whose elements `place` finds.
fn products(a: &[f64], b: &[f64], depth: usize, place: impl Fn(usize, usize) -> usize) -> Vec<f64> {
    let mut result = Vec::with_capacity(2 * SIZE * SIZE);
    for block in 0..2 {
        let (a, b) = (&a[block * SIZE * depth..], &b[block * SIZE * depth..]);
        for row in 0..SIZE {
            for column in 0..SIZE {
                result.push((0..depth).map(|k| a[row * depth + k] * b[place(column, k)]).sum());
            }
        }
    }
    result
}

/// The text without the nth statement that begins like this (0 is the first).
pub(crate) fn without(ptx: &str, start: &str, nth: usize) -> String {
    replaced(ptx, start, nth, |_| String::new())
}

/// The text with the nth statement that begins like this put another way.
pub(crate) fn replaced(ptx: &str, start: &str, nth: usize, change: impl Fn(&str) -> String) -> String {
    let mut seen = 0;
    let mut found = false;
    let lines: Vec<String> = ptx
        .lines()
        .map(|line| {
            let text = line.trim_start();
            let unguarded = if text.starts_with('@') {
                text.split_once(char::is_whitespace).map_or(text, |(_, rest)| rest)
            } else {
                text
            };
            if !unguarded.trim_start().starts_with(start) {
                return line.to_string();
            }
            seen += 1;
            if seen - 1 != nth {
                return line.to_string();
            }
            found = true;
            change(line)
        })
        .collect();
    assert!(found, "the fixture has no statement {nth} that begins with `{start}`");
    lines.join("\n")
}
