//! Tensor maps: what a tensor copy knows about a tensor. The encoding is the interpreter's own; the device's is secret.

/// Bytes of a tensor map.
pub const TENSOR_MAP_BYTES: usize = 128;

/// Marks a map as one of the interpreter's.
const MAGIC: [u8; 4] = *b"PTXi";

/// Type of a tensor's elements, as far as a copy cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// One byte.
    U8,
    /// 16-bit integers.
    U16,
    /// 32-bit integers.
    U32,
    /// Half precision.
    F16,
    /// Brain float.
    BF16,
    /// Single precision.
    F32,
    /// 64 bits.
    U64,
}

impl ElementType {
    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::F32 => 4,
            Self::U64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32)
    }
}

/// How 16-byte pieces are permuted in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Over 32 bytes.
    Bytes32,
    /// Over 64 bytes.
    Bytes64,
    /// Over 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// The address at which a piece lands.
    pub(crate) fn apply(self, address: u32) -> u32 {
        match self {
            Self::None => address,
            Self::Bytes32 => address ^ (address >> 3 & 0x10),
            Self::Bytes64 => address ^ (address >> 3 & 0x30),
            Self::Bytes128 => address ^ (address >> 3 & 0x70),
        }
    }

    pub(crate) fn span(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Bytes32 => Some(32),
            Self::Bytes64 => Some(64),
            Self::Bytes128 => Some(128),
        }
    }
}

/// What elements outside of the tensor are read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfBoundsFill {
    /// Zeros.
    #[default]
    Zeros,
    /// A NaN, for float types.
    Nan,
}

/// A tensor and the box that one copy moves, in the terms of `cuTensorMapEncodeTiled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapDescription {
    /// Global address of element 0.
    pub address: u64,
    /// Type of the elements.
    pub element: ElementType,
    /// Elements along each dimension, innermost first; 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, for every dimension but the innermost.
    pub strides: Vec<u64>,
    /// Elements that one copy moves along each dimension.
    pub box_dims: Vec<u32>,
    /// Steps between the elements that are moved; usually 1.
    pub element_strides: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
    /// What lies outside.
    pub fill: OutOfBoundsFill,
}

/// Why the device would refuse a tensor map.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid tensor map: {0}")]
pub struct TensorMapError(String);

impl TensorMapDescription {
    /// Checks what the driver checks, and packs the map for a kernel parameter or a buffer.
    pub fn encode(&self) -> Result<[u8; TENSOR_MAP_BYTES], TensorMapError> {
        let fail = |reason: String| Err(TensorMapError(reason));
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return fail(format!("rank {rank}; 1 to 5 are possible"));
        }
        if self.strides.len() != rank - 1 || self.box_dims.len() != rank || self.element_strides.len() != rank {
            return fail("strides, box and element strides do not match the rank".into());
        }
        if !self.address.is_multiple_of(16) {
            return fail(format!("address {:#x} is not a multiple of 16", self.address));
        }
        if let Some(dim) = self.dims.iter().find(|&&dim| dim == 0 || dim > 1 << 32) {
            return fail(format!("dimension of {dim} elements"));
        }
        if let Some(stride) = self.strides.iter().find(|&&stride| stride % 16 != 0 || stride >= 1 << 40) {
            return fail(format!("stride of {stride} bytes; a multiple of 16 below 2^40 is needed"));
        }
        if let Some(side) = self.box_dims.iter().find(|&&side| side == 0 || side > 256) {
            return fail(format!("box side of {side} elements; 1 to 256 are possible"));
        }
        if let Some(stride) = self.element_strides.iter().find(|&&stride| stride == 0 || stride > 8) {
            return fail(format!("element stride of {stride}; 1 to 8 are possible"));
        }
        let inner = self.box_dims[0].div_ceil(self.element_strides[0]) * self.element.bytes();
        if !inner.is_multiple_of(16) {
            return fail(format!("the box's inner side is {inner} bytes, which is not a multiple of 16"));
        }
        if let Some(span) = self.swizzle.span()
            && inner > span
        {
            return fail(format!("the box's inner side is {inner} bytes, more than the swizzle's {span}"));
        }
        if self.fill == OutOfBoundsFill::Nan && !self.element.is_float() {
            return fail("only float types can be filled with NaN".into());
        }
        let mut bytes = [0; TENSOR_MAP_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = rank as u8;
        bytes[5] = self.element as u8;
        bytes[6] = self.swizzle as u8;
        bytes[7] = self.fill as u8;
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        for (index, dim) in self.dims.iter().enumerate() {
            bytes[16 + 8 * index..24 + 8 * index].copy_from_slice(&dim.to_le_bytes());
        }
        for (index, stride) in self.strides.iter().enumerate() {
            bytes[56 + 8 * index..64 + 8 * index].copy_from_slice(&stride.to_le_bytes());
        }
        for index in 0..rank {
            bytes[88 + 2 * index..90 + 2 * index].copy_from_slice(&(self.box_dims[index] as u16).to_le_bytes());
            bytes[98 + index] = self.element_strides[index] as u8;
        }
        Ok(bytes)
    }

    /// Reads a map back; none if these bytes are not one of the interpreter's.
    pub fn decode(bytes: &[u8; TENSOR_MAP_BYTES]) -> Option<Self> {
        if bytes[..4] != MAGIC {
            return None;
        }
        let rank = usize::from(bytes[4]);
        if !(1..=5).contains(&rank) {
            return None;
        }
        let element = [
            ElementType::U8,
            ElementType::U16,
            ElementType::U32,
            ElementType::F16,
            ElementType::BF16,
            ElementType::F32,
            ElementType::U64,
        ]
        .into_iter()
        .find(|element| *element as u8 == bytes[5])?;
        let swizzle = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128]
            .into_iter()
            .find(|swizzle| *swizzle as u8 == bytes[6])?;
        let fill = if bytes[7] == 0 { OutOfBoundsFill::Zeros } else { OutOfBoundsFill::Nan };
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let short = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        Some(Self {
            address: long(8),
            element,
            dims: (0..rank).map(|index| long(16 + 8 * index)).collect(),
            strides: (0..rank - 1).map(|index| long(56 + 8 * index)).collect(),
            box_dims: (0..rank).map(|index| short(88 + 2 * index)).collect(),
            element_strides: (0..rank).map(|index| u32::from(bytes[98 + index]).max(1)).collect(),
            swizzle,
            fill,
        })
    }
}
