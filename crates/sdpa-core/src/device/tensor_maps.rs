//! Which tensor maps a launch takes behind its parameter block; each device encodes them in its own way.

use ptx_interp::{ElementType, OutOfBoundsFill, Swizzle, TENSOR_MAP_BYTES, TensorMapDescription};

use crate::{Error, Launch, Operand, Params, Result, TileBoxes};

/// `TensorMaps` in the kernels' `tensor_copy.cuh`: query, key, value and output, one after the other. As kernel parameters follow
/// one another at multiples of their alignment, they begin at one behind what a kernel declares of the block.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct TensorMaps([[u8; TENSOR_MAP_BYTES]; 4]);

impl TensorMaps {
    /// The maps that `launch` needs, through the device's own `encode`; `None` where its kernel takes none.
    pub(super) fn new(
        launch: &Launch,
        params: &Params,
        encode: impl Fn(&TensorMapDescription) -> std::result::Result<[u8; TENSOR_MAP_BYTES], String>,
    ) -> Result<Option<Self>> {
        let Some(boxes) = &launch.kernel.boxes else { return Ok(None) };
        let mut maps = [[0; TENSOR_MAP_BYTES]; 4];
        for (map, operand) in maps.iter_mut().zip(Operand::ALL) {
            *map = encode(&describe(params, boxes, operand)).map_err(|reason| Error::TensorMap {
                operand,
                launch: launch.to_string(),
                reason,
            })?;
        }
        Ok(Some(Self(maps)))
    }

    /// Moves each map to its tensor's address by the device's own `replace`, or says of which tensor it refused it.
    pub(super) fn move_to<E>(
        &mut self,
        params: &Params,
        replace: impl Fn(&mut [u8; TENSOR_MAP_BYTES], u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), (Operand, E)> {
        let tensors = [params.query, params.key, params.value, params.output];
        for ((map, operand), tensor) in self.0.iter_mut().zip(Operand::ALL).zip(tensors) {
            replace(map, tensor.address).map_err(|error| (operand, error))?;
        }
        Ok(())
    }

    /// The maps as a kernel parameter.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.0.iter().flatten().copied()
    }
}

/// `[width, length, heads, batch]`, innermost first, in boxes of 64 columns.
fn describe(params: &Params, boxes: &TileBoxes, operand: Operand) -> TensorMapDescription {
    const ELEMENT: ElementType = ElementType::U16; // f16 and bf16 alike: a copy moves bits and fills with zeros
    let bytes = u64::from(ELEMENT.bytes());
    let (head_dim, value_dim) = (params.head_dim as u64, params.extension.value_dim as u64);
    let (tensor, heads, length, width) = match operand {
        Operand::Query => (&params.query, params.heads_q, params.len_q, head_dim),
        Operand::Key => (&params.key, params.heads_kv, params.len_kv, head_dim),
        Operand::Value => (&params.value, params.heads_kv, params.len_kv, value_dim),
        Operand::Output => (&params.output, params.heads_q, params.len_q, value_dim),
    };
    let row_bytes = width * bytes;
    let outer = [(length, tensor.row_stride), (heads, tensor.head_stride), (params.batch, tensor.batch_stride)];
    TensorMapDescription {
        address: tensor.address,
        element: ELEMENT,
        // A map holds no empty tensor. Of one, kernels copy nothing.
        dims: [width].into_iter().chain(outer.map(|(count, _)| count.max(1) as u64)).collect(),
        // The stride of a dimension that is never stepped along may be anything, and a map holds only multiples of 16.
        strides: outer.map(|(count, stride)| if count > 1 { stride as u64 * bytes } else { row_bytes }).to_vec(),
        box_dims: vec![TileBoxes::COLUMNS, boxes.rows(operand), 1, 1],
        element_strides: vec![1; 4],
        swizzle: Swizzle::Bytes128,
        fill: OutOfBoundsFill::Zeros,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackedPtx;

    static PTX: PackedPtx = PackedPtx::new("v0", &[]);
    use crate::{Architecture, Layout, Problem, Specialisation, Strides};

    static LAUNCH: Launch = Launch {
        kernel: Specialisation {
            source: "v0.cu",
            ptx: &PTX,
            name: "f16_d64",
            architecture: Architecture::Compute90a,
            defines: &[],
            threads: 128,
            shared_bytes: 0,
            boxes: Some(TileBoxes { query: 192, key: 128, value: 112, output: 64 }),
        },
        grid: [1, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
    };

    fn encode(problem: &Problem, addresses: [u64; 4]) -> Result<Vec<TensorMapDescription>> {
        let described = std::cell::RefCell::new(Vec::new());
        let maps = TensorMaps::new(&LAUNCH, &Params::new(problem, addresses), |description| {
            described.borrow_mut().push(description.clone());
            description.encode().map_err(|error| error.to_string())
        })?;
        assert_eq!(maps.map(|maps| maps.bytes().count()), Some(4 * TENSOR_MAP_BYTES));
        Ok(described.into_inner())
    }

    #[test]
    fn maps_are_the_problem_in_bytes() {
        let problem = Problem::new(2, 6, 33, 40).heads_kv(3).len_kv(70).layout(Layout::Blhd).build().unwrap();
        let [query, key, value, output] = encode(&problem, [256, 512, 768, 1024]).unwrap().try_into().unwrap();
        assert_eq!((query.address, &*query.dims, &*query.strides), (256, &[40, 33, 6, 2][..], &[480, 80, 15840][..]));
        assert_eq!((key.address, &*key.dims, &*key.strides), (512, &[40, 70, 3, 2][..], &[240, 80, 16800][..]));
        let rows = [&query, &key, &value, &output].map(|map| map.box_dims[1]);
        assert_eq!((rows, query.box_dims[0]), ([192, 128, 112, 64], 64));
        assert_eq!(TensorMapDescription { address: 512, box_dims: key.box_dims.clone(), ..value }, key);
        assert_eq!(TensorMapDescription { address: 256, box_dims: query.box_dims.clone(), ..output }, query);
        let narrow = problem.to_builder().value_dim(24).layout(Layout::Blhd).build().unwrap();
        let [_, key, value, output] = encode(&narrow, [256, 512, 768, 1024]).unwrap().try_into().unwrap();
        assert_eq!((key.dims[0], &*value.dims, &*value.strides), (40, &[24, 70, 3, 2][..], &[144, 48, 10080][..]));
        assert_eq!((&*output.dims, &*output.strides), (&[24, 33, 6, 2][..], &[288, 48, 9504][..]));
    }

    #[test]
    fn what_is_never_stepped_along_does_not_matter() {
        let odd = Strides { batch: 3, head: 5, row: 7 };
        let one = Problem::new(1, 1, 1, 8).len_kv(0).strides(Operand::Query, odd).strides(Operand::Key, odd);
        let described = encode(&one.build().unwrap(), [256; 4]).unwrap();
        assert!(described.iter().all(|map| map.dims == [8, 1, 1, 1] && map.strides == [16; 3]));
    }

    #[test]
    fn a_refusal_names_the_tensor() {
        let problem = Problem::new(1, 1, 4, 64).build().unwrap();
        let error = encode(&problem, [256, 512, 776, 1024]).unwrap_err().to_string();
        assert_eq!(
            error,
            "v0/f16_d64 grid 1 block 128 shared 0 boxes 192/128/112/64 was not launched: no tensor map of value: \
             invalid tensor map: address 0x308 is not a multiple of 16"
        );
    }
}
