//! Tensor copies: boxes inside, across and outside of a tensor's edges, in every rank and swizzle, both ways.

use crate::block::{Parts, build};
use crate::inputs::Numbers;
use crate::{Probe, ProbeMap};
use ptx_interp::{ElementType, OutOfBoundsFill, Swizzle, TensorMapDescription};

/// Waits for the first phase of the mbarrier at `%r4`.
pub(crate) const WAIT: &str = "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;\n@!%p2 bra WAIT;\n";
/// Makes the mbarrier at `%r4` expect one arrival; `%p1` is the first thread's.
pub(crate) const INIT: &str = "setp.eq.u32 %p1, %r1, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r4], 1;\n\
                               @%p1 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n";
/// The host wrote the map at `%rd12`: a copy that reads it from global memory must be told.
pub(crate) const MAP_FENCE: &str = "@%p1 fence.proxy.tensormap::generic.acquire.sys [%rd12], 128;\n";

/// A tensor, the box that is copied, and where.
struct Copy {
    name: &'static str,
    element: ElementType,
    dims: &'static [u64],
    box_dims: &'static [u32],
    /// Distance between the elements that are copied.
    step: u32,
    swizzle: Swizzle,
    fill: OutOfBoundsFill,
    /// Of every block's box. The innermost must be a multiple of 16 bytes, and none negative where a box is stored.
    coordinates: &'static [&'static [i32]],
}

impl Copy {
    fn rank(&self) -> usize {
        self.dims.len()
    }

    fn strides(&self) -> Vec<u64> {
        let mut stride = (self.dims[0] * u64::from(self.element.bytes())).next_multiple_of(16);
        self.dims[1..]
            .iter()
            .map(|dim| {
                let this = stride;
                // A gap behind every plane but the innermost.
                stride = stride * dim + 16;
                this
            })
            .collect()
    }

    /// Bytes from the first element to behind the last.
    fn extent(&self) -> u64 {
        let spans = self.dims[1..].iter().zip(self.strides());
        spans.fold(self.dims[0] * u64::from(self.element.bytes()), |extent, (dim, stride)| extent + (dim - 1) * stride)
    }

    fn map(&self, buffer: usize, offset: u64) -> ProbeMap {
        let mut element_strides = vec![1; self.rank()];
        if let Some(last) = element_strides.last_mut() {
            *last = self.step;
        }
        ProbeMap {
            buffer,
            description: TensorMapDescription {
                address: offset,
                element: self.element,
                dims: self.dims.to_vec(),
                strides: self.strides(),
                box_dims: self.box_dims.to_vec(),
                element_strides,
                swizzle: self.swizzle,
                fill: self.fill,
            },
        }
    }

    fn box_bytes(&self) -> usize {
        let (last, rest) = self.box_dims.split_last().unwrap_or((&1, &[]));
        (rest.iter().product::<u32>() * last.div_ceil(self.step) * self.element.bytes()) as usize
    }

    fn coordinate_list(&self) -> String {
        (0..self.rank()).map(|index| format!("%r{}", 10 + index)).collect::<Vec<_>>().join(", ")
    }
}

const NO_FILL: OutOfBoundsFill = OutOfBoundsFill::Zeros;

/// f16 with 64 columns in rows of 128 bytes: the shapes of attention.
const fn attention(name: &'static str, swizzle: Swizzle, columns: &'static [u32]) -> Copy {
    Copy {
        name,
        element: ElementType::F16,
        dims: &[70, 21],
        box_dims: columns,
        step: 1,
        swizzle,
        fill: NO_FILL,
        coordinates: &[&[0, 0], &[8, 5], &[64, 16], &[-8, -3], &[16, 20], &[72, 0]],
    }
}

const LOADS: &[Copy] = &[
    attention("plain", Swizzle::None, &[64, 16]),
    attention("32 B swizzle", Swizzle::Bytes32, &[16, 16]),
    attention("64 B swizzle", Swizzle::Bytes64, &[32, 16]),
    attention("128 B swizzle", Swizzle::Bytes128, &[64, 16]),
    attention("128 B swizzle, half a line", Swizzle::Bytes128, &[32, 16]),
    attention("64 B swizzle, half a line", Swizzle::Bytes64, &[16, 16]),
    attention("128 B swizzle, 12 rows", Swizzle::Bytes128, &[64, 12]),
    Copy {
        name: "1-D",
        element: ElementType::F32,
        dims: &[98],
        box_dims: &[64],
        step: 1,
        swizzle: Swizzle::None,
        fill: NO_FILL,
        coordinates: &[&[0], &[36], &[68], &[-4], &[-64], &[100]],
    },
    Copy {
        name: "3-D",
        element: ElementType::BF16,
        dims: &[40, 7, 5],
        box_dims: &[32, 4, 4],
        step: 1,
        swizzle: Swizzle::Bytes64,
        fill: NO_FILL,
        coordinates: &[&[0, 0, 0], &[8, 3, 1], &[16, 5, 3], &[-16, -2, -1]],
    },
    Copy {
        name: "4-D",
        element: ElementType::F16,
        dims: &[64, 9, 3, 2],
        box_dims: &[64, 8, 1, 1],
        step: 1,
        swizzle: Swizzle::Bytes128,
        fill: NO_FILL,
        coordinates: &[&[0, 0, 0, 0], &[0, 8, 2, 1], &[32, 4, 1, 0], &[0, 0, 3, 0]],
    },
    Copy {
        name: "5-D",
        element: ElementType::U8,
        dims: &[45, 3, 3, 3, 2],
        box_dims: &[32, 2, 2, 2, 2],
        step: 1,
        swizzle: Swizzle::Bytes32,
        fill: NO_FILL,
        // The fifth coordinate is always 1.
        coordinates: &[&[0, 0, 0, 0], &[32, 2, 1, 2], &[-16, -1, 2, 0]],
    },
    Copy {
        name: "every second row",
        element: ElementType::F16,
        dims: &[32, 19],
        box_dims: &[32, 16],
        step: 2,
        swizzle: Swizzle::None,
        fill: NO_FILL,
        coordinates: &[&[0, 0], &[0, 1], &[0, 9], &[8, -3]],
    },
    Copy {
        name: "NaN outside, f32",
        element: ElementType::F32,
        dims: &[18, 6],
        box_dims: &[16, 8],
        step: 1,
        swizzle: Swizzle::Bytes64,
        fill: OutOfBoundsFill::Nan,
        coordinates: &[&[0, 0], &[8, 2], &[-4, -1]],
    },
    Copy {
        name: "NaN outside, f16",
        element: ElementType::F16,
        dims: &[21, 6],
        box_dims: &[32, 8],
        step: 1,
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Nan,
        coordinates: &[&[0, 0], &[8, 2], &[-8, -1]],
    },
    Copy {
        name: "NaN outside, bf16",
        element: ElementType::BF16,
        dims: &[21, 6],
        box_dims: &[32, 8],
        step: 1,
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Nan,
        coordinates: &[&[0, 0], &[8, 2], &[-8, -1]],
    },
    Copy {
        name: "u64",
        element: ElementType::U64,
        dims: &[9, 5],
        box_dims: &[8, 4],
        step: 1,
        swizzle: Swizzle::Bytes64,
        fill: NO_FILL,
        coordinates: &[&[0, 0], &[4, 2], &[-2, -1]],
    },
];

/// How a load is spelled.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    /// With a cache policy, and the map and the box fetched before.
    Hinted,
    /// To the block's own shared memory by name.
    Block,
    /// With the map in a parameter, which is fetched before.
    Parameter,
}

fn load(copy: &Copy, form: Form) -> Probe {
    let (rank, bytes) = (copy.rank(), copy.box_bytes());
    let mut numbers = Numbers::new(500);
    let image_bytes = bytes.next_multiple_of(2048);
    let blocks = copy.coordinates.len();
    let second = copy
        .coordinates
        .iter()
        .flat_map(|coordinates| {
            let words: [u32; 4] = std::array::from_fn(|index| coordinates.get(index).map_or(0, |place| *place as u32));
            std::iter::repeat_n(words, 128).flatten()
        })
        .collect();
    let (hint, policy) = if form == Form::Hinted { (".L2::cache_hint", ", %rd20") } else { ("", "") };
    let space = if form == Form::Block { "cta" } else { "cluster" };
    let spelling = format!("cp.async.bulk.tensor.{rank}d.shared::{space}.global.mbarrier::complete_tx::bytes{hint}");
    let origin = if form == Form::Parameter { " of a parameter" } else { "" };
    let mut body = INIT.to_owned();
    if form == Form::Parameter {
        body += "mov.b64 %rd12, map;\ncvta.param.u64 %rd12, %rd12;\nprefetch.param.tensormap [map];\n";
    } else {
        body += MAP_FENCE;
    }
    if form == Form::Hinted {
        body += &format!(
            "prefetch.tensormap [%rd12];\n@%p1 cp.async.bulk.prefetch.tensor.{rank}d.L2.global [%rd12, {{{}}}];\n",
            copy.coordinate_list()
        );
    }
    body += &format!(
        "mov.u32 %r14, 1;\ncreatepolicy.fractional.L2::evict_last.b64 %rd20, 1.0;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], {bytes};\n\
         @%p1 {spelling} [%r2], [%rd12, {{{}}}], [%r4]{policy};\n{WAIT}",
        copy.coordinate_list()
    );
    let results = image_bytes / 512;
    body += &format!("mul.lo.u32 %r20, %r1, {};\nadd.s32 %r20, %r2, %r20;\n", 4 * results);
    for word in (0..results).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| 30 + word + index);
        body += &format!("ld.shared.v4.u32 {{%r{a}, %r{b}, %r{c}, %r{d}}}, [%r20+{}];\n", 4 * word);
    }
    build(Parts {
        name: format!("{spelling} {}{origin}", copy.name),
        body: &body,
        blocks: blocks as u32,
        image_bytes,
        image: (0..blocks * image_bytes / 4).map(|_| numbers.bits()).collect(),
        second,
        third: (0..copy.extent()).map(|_| numbers.bits() as u8).collect(),
        maps: vec![copy.map(2, 128)],
        map_parameter: (form == Form::Parameter).then(|| copy.map(2, 128)),
        results,
        folded: true,
        ..Parts::default()
    })
}

/// What a store does to what was there.
const STORES: &[(&str, ElementType)] = &[
    ("", ElementType::F16),
    ("add", ElementType::U32),
    ("add", ElementType::F32),
    ("add", ElementType::F16),
    ("add", ElementType::BF16),
    ("min", ElementType::U32),
    ("max", ElementType::F16),
    ("and", ElementType::U32),
    ("or", ElementType::U32),
    ("xor", ElementType::U32),
];

fn store(kind: &str, element: ElementType, copy: &Copy) -> Probe {
    let (rank, bytes) = (copy.rank(), copy.box_bytes());
    let mut numbers = Numbers::new(510);
    let image_bytes = bytes.next_multiple_of(2048);
    let output_bytes = (copy.extent() as usize).next_multiple_of(2048);
    let number = |value: f32| match element {
        ElementType::F16 => u32::from(half::f16::from_f32(value).to_bits()) * 0x1_0001,
        ElementType::BF16 => u32::from(half::bf16::from_f32(value).to_bits()) * 0x1_0001,
        ElementType::F32 => value.to_bits(),
        _ => value as i32 as u32,
    };
    let image = (0..image_bytes / 4).map(|_| number(numbers.whole(60))).collect();
    let spelling = if kind.is_empty() {
        format!("cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group")
    } else {
        format!("cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.{kind}.bulk_group")
    };
    let mut body = format!(
        "setp.eq.u32 %p1, %r1, 0;\nmov.u32 %r20, {:#x};\nmul.wide.u32 %rd20, %r1, 16;\nadd.s64 %rd20, %rd14, %rd20;\n",
        number(7.0)
    );
    for at in (0..output_bytes).step_by(2048) {
        body += &format!("st.global.v4.u32 [%rd20+{at}], {{%r20, %r20, %r20, %r20}};\n");
    }
    body += "fence.proxy.async;\nbar.sync 0;\n";
    body += MAP_FENCE;
    body += "mov.u32 %r14, 1;\n";
    for coordinates in copy.coordinates {
        for (index, place) in coordinates.iter().enumerate() {
            body += &format!("mov.u32 %r{}, {place};\n", 10 + index);
        }
        body += &format!("@%p1 {spelling} [%rd12, {{{}}}], [%r2];\n", copy.coordinate_list());
    }
    body += "@%p1 cp.async.bulk.commit_group;\n@%p1 cp.async.bulk.wait_group 0;\n";
    let element_name = format!("{element:?}").to_lowercase();
    build(Parts {
        name: format!("{spelling} {element_name} {}", copy.name),
        body: &body,
        image_bytes,
        image,
        maps: vec![copy.map(3, 0)],
        results: 0,
        output_bytes,
        ..Parts::default()
    })
}

pub(crate) fn probes() -> Vec<Probe> {
    let mut all: Vec<_> = LOADS.iter().map(|copy| load(copy, Form::Plain)).collect();
    all.push(load(&LOADS[3], Form::Hinted));
    all.push(load(&LOADS[3], Form::Parameter));
    all.extend(
        LOADS.iter().filter(|copy| ["128 B swizzle", "4-D"].contains(&copy.name)).map(|copy| load(copy, Form::Block)),
    );
    // Boxes that do not overlap, some across an edge.
    const APART: [&[i32]; 3] = [&[0, 0], &[8, 9], &[16, 18]];
    for &(kind, element) in STORES {
        let columns: &[u32] = match element.bytes() {
            2 => &[64, 8],
            _ => &[32, 8],
        };
        let copy = Copy { element, coordinates: &APART, ..attention("128 B swizzle", Swizzle::Bytes128, columns) };
        all.push(store(kind, element, &copy));
    }
    let plain = attention("plain", Swizzle::None, &[64, 8]);
    all.push(store("", ElementType::F16, &Copy { coordinates: &APART, ..plain }));
    for name in ["1-D", "3-D", "4-D", "5-D"] {
        for copy in LOADS.iter().filter(|copy| copy.name == name) {
            let one = Copy { coordinates: &copy.coordinates[1..2], ..*copy };
            all.push(store("", copy.element, &one));
            if copy.element != ElementType::U8 {
                all.push(store("add", copy.element, &one));
            }
        }
    }
    all
}
