//! Tensor maps in the driver's own encoding, from the same description that the interpreter's are made of.

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Fill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use ptx_interp::{ElementType, OutOfBoundsFill, Swizzle, TENSOR_MAP_BYTES, TensorMapDescription};

use super::{Cuda, driver, library};
use crate::{DriverAnswer, Error, Result};

impl Cuda {
    /// The bytes that a kernel of this device takes for a tensor map.
    ///
    /// # Errors
    /// The driver's, where it refuses the description.
    pub fn encode_tensor_map(&self, description: &TensorMapDescription) -> Result<[u8; TENSOR_MAP_BYTES]> {
        library::require(library::TENSOR_MAPS)?;
        self.bind()?;
        encode(description)
    }
}

const ENCODING: &str = "encoding a tensor map";

/// Of any tensor map.
const MOST_DIMENSIONS: usize = 5;

/// `CUDA_ERROR_INVALID_VALUE`.
const INVALID_VALUE: i32 = 1;

/// The first of these, and something else where there are no more.
fn filled<T: Copy, const COUNT: usize>(given: &[T], otherwise: T) -> [T; COUNT] {
    std::array::from_fn(|index| given.get(index).copied().unwrap_or(otherwise))
}

/// The same where the device's context is current and the library has the function.
pub(super) fn encode(description: &TensorMapDescription) -> Result<[u8; TENSOR_MAP_BYTES]> {
    let mut map = CUtensorMap { opaque: [0; TENSOR_MAP_BYTES / 8] };
    let data_type = match description.element {
        ElementType::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        ElementType::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        ElementType::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        ElementType::U64 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
        ElementType::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        ElementType::BF16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        ElementType::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = match description.swizzle {
        Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let fill = match description.fill {
        OutOfBoundsFill::Zeros => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        OutOfBoundsFill::Nan => Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    };
    // The driver reads as many of each as the rank says: what is missing must not be read past the end.
    let rank = description.dims.len();
    if rank > MOST_DIMENSIONS {
        let answer = DriverAnswer::new(INVALID_VALUE, "a tensor map has at most five dimensions");
        return Err(Error::Driver { doing: ENCODING, answer });
    }
    let dims: [u64; MOST_DIMENSIONS] = filled(&description.dims, 1);
    let strides: [u64; MOST_DIMENSIONS] = filled(&description.strides, 16);
    let box_dims: [u32; MOST_DIMENSIONS] = filled(&description.box_dims, 1);
    let element_strides: [u32; MOST_DIMENSIONS] = filled(&description.element_strides, 1);
    // SAFETY: the arrays hold at least as many entries as the rank says, and the map is as large and as aligned as its type
    // says.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            data_type,
            rank as u32,
            description.address as *mut std::ffi::c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            box_dims.as_ptr(),
            element_strides.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            fill,
        )
    }
    .result()
    .map_err(driver(ENCODING))?;
    let mut bytes = [0; TENSOR_MAP_BYTES];
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(map.opaque) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

/// Makes a map that [`encode`] made one of the same tensor at another address.
pub(super) fn replace_address(map: &mut [u8; TENSOR_MAP_BYTES], address: u64) -> Result<()> {
    // The driver wants its own type's alignment, which the bytes need not have.
    let mut own = CUtensorMap { opaque: [0; TENSOR_MAP_BYTES / 8] };
    for (word, bytes) in own.opaque.iter_mut().zip(map.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    // SAFETY: the map was made by the driver, and is as large and as aligned as its type says.
    unsafe { sys::cuTensorMapReplaceAddress(&mut own, address as *mut std::ffi::c_void) }
        .result()
        .map_err(driver("moving a tensor map"))?;
    for (bytes, word) in map.as_chunks_mut::<8>().0.iter_mut().zip(own.opaque) {
        *bytes = word.to_le_bytes();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_filled_and_what_is_too_much_is_left_out() {
        assert_eq!(filled::<u32, 4>(&[3, 2], 1), [3, 2, 1, 1]);
        assert_eq!(filled::<u32, 2>(&[3, 2, 5], 1), [3, 2]);
    }
}
