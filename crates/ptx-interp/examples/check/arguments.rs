//! The kernel's arguments as the command line writes them.

use ptx_interp::Memory;

/// One parameter of the kernel.
pub(crate) enum Argument {
    Buffer(Buffer),
    Scalar(Vec<u8>),
    /// Members of a structure that is passed by value, each aligned to its size.
    Structure(Vec<Argument>),
}

pub(crate) struct Buffer {
    kind: Kind,
    count: usize,
    contents: String,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Integer(usize),
    Half,
    BrainHalf,
    Single,
    Double,
}

impl Kind {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "u8" | "i8" => Self::Integer(1),
            "u16" | "i16" => Self::Integer(2),
            "u32" | "i32" => Self::Integer(4),
            "u64" | "i64" => Self::Integer(8),
            "f16" => Self::Half,
            "bf16" => Self::BrainHalf,
            "f32" => Self::Single,
            "f64" => Self::Double,
            _ => return Err(format!("`{name}` is not a type: u8, i8, u16, u32, i32, u64, f16, bf16, f32, f64 are")),
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Integer(bytes) => bytes,
            Self::Half | Self::BrainHalf => 2,
            Self::Single => 4,
            Self::Double => 8,
        }
    }

    fn encode(self, value: f64) -> Vec<u8> {
        match self {
            Self::Integer(bytes) => (value as i64).to_le_bytes()[..bytes].to_vec(),
            Self::Half => half::f16::from_f64(value).to_le_bytes().to_vec(),
            Self::BrainHalf => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::Single => (value as f32).to_le_bytes().to_vec(),
            Self::Double => value.to_le_bytes().to_vec(),
        }
    }

    pub(crate) fn show(self, bytes: &[u8]) -> String {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::Integer(bytes) => {
                let unused = 64 - 8 * bytes as u32;
                ((bits << unused) as i64 >> unused).to_string()
            }
            Self::Half => half::f16::from_bits(bits as u16).to_string(),
            Self::BrainHalf => half::bf16::from_bits(bits as u16).to_string(),
            Self::Single => f32::from_bits(bits as u32).to_string(),
            Self::Double => f64::from_bits(bits).to_string(),
        }
    }
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number that fits here"))
}

/// `X`, `X,Y` or `X,Y,Z`
pub(crate) fn sides(text: &str) -> Result<[u32; 3], String> {
    let mut sides = [1; 3];
    let parts: Vec<_> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(format!("`{text}` has more than three sides"));
    }
    for (side, part) in sides.iter_mut().zip(parts) {
        *side = number(part)?;
    }
    Ok(sides)
}

impl Argument {
    /// `TYPE:COUNT` or `TYPE:COUNT:CONTENTS`
    pub(crate) fn buffer(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let (kind, count, contents) = match *parts.as_slice() {
            [kind, count] => (kind, count, "zero"),
            [kind, count, contents] => (kind, count, contents),
            _ => return Err(format!("`{text}` is not TYPE:COUNT or TYPE:COUNT:CONTENTS")),
        };
        if !["none", "zero", "one", "iota", "random"].contains(&contents) {
            return Err(format!("`{contents}` is none of none, zero, one, iota and random"));
        }
        Ok(Self::Buffer(Buffer { kind: Kind::parse(kind)?, count: number(count)?, contents: contents.into() }))
    }

    /// `TYPE:VALUE`
    pub(crate) fn scalar(text: &str) -> Result<Self, String> {
        let (kind, value) = text.split_once([':', '=']).ok_or_else(|| format!("`{text}` is not TYPE:VALUE"))?;
        let kind = Kind::parse(kind)?;
        if let Kind::Integer(bytes) = kind {
            let value: i128 = number(value)?;
            return Ok(Self::Scalar(value.to_le_bytes()[..bytes].to_vec()));
        }
        Ok(Self::Scalar(kind.encode(number(value)?)))
    }

    /// Members with commas in between: a scalar is `TYPE=VALUE`, a pointer what [`Self::buffer`] takes.
    pub(crate) fn structure(text: &str) -> Result<Self, String> {
        let member = |text: &str| if text.contains('=') { Self::scalar(text) } else { Self::buffer(text) };
        text.split(',').map(member).collect::<Result<_, _>>().map(Self::Structure)
    }

    /// The bytes of the parameter; buffers are allocated, and noted by their names.
    pub(crate) fn place(&self, name: &str, memory: &mut Memory, buffers: &mut Vec<Placed>) -> Result<Vec<u8>, String> {
        match self {
            Self::Scalar(bytes) => Ok(bytes.clone()),
            Self::Buffer(buffer) => {
                let placed = buffer.place(name, memory)?;
                let address = placed.address.to_le_bytes().to_vec();
                buffers.push(placed);
                Ok(address)
            }
            Self::Structure(members) => {
                let (mut bytes, mut align) = (Vec::new(), 1);
                for (index, member) in members.iter().enumerate() {
                    let part = member.place(&format!("{name}.{index}"), memory, buffers)?;
                    align = part.len().max(align);
                    bytes.resize(usize::next_multiple_of(bytes.len(), part.len()), 0);
                    bytes.extend(part);
                }
                bytes.resize(bytes.len().next_multiple_of(align), 0);
                Ok(bytes)
            }
        }
    }
}

/// A buffer in memory.
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) kind: Kind,
    pub(crate) count: usize,
}

impl Buffer {
    fn place(&self, name: &str, memory: &mut Memory) -> Result<Placed, String> {
        let Self { kind, count, contents } = self;
        let size = count.checked_mul(kind.bytes()).filter(|size| *size <= 1 << 32);
        let size = size.ok_or_else(|| format!("{name}: {count} elements are too many"))?;
        let address = memory.allocate(name, size, 256);
        if contents != "none" {
            memory.write(address, &self.fill()).map_err(|error| error.to_string())?;
        }
        Ok(Placed { name: name.into(), address, kind: *kind, count: *count })
    }

    fn fill(&self) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let value = |index: usize| match self.contents.as_str() {
            "iota" => index as f64,
            "one" => 1.0,
            "random" => {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
                if matches!(self.kind, Kind::Integer(_)) { (unit * 100.0).floor() } else { 2.0 * unit - 1.0 }
            }
            _ => 0.0,
        };
        (0..self.count).map(value).flat_map(|value| self.kind.encode(value)).collect()
    }
}
