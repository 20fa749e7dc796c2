//! Machine code of a generation's kernels, beside their PTX: what ptxas made of it for one architecture.
//!
//! A driver takes a quarter of a second to compile a large kernel's PTX, and less than a millisecond to load its machine
//! code. `sdpa build-ptx` writes both. A device that no machine code is for compiles the PTX.
//!
//! A pack is compressed with zstd. It holds one kernel after the other: a line `kernel NAME PTX BYTES`, then so many bytes
//! of a cubin. `PTX` is the hash of the instructions that the code was made of.

use std::fmt;
use std::io::Read as _;
use std::sync::OnceLock;

use crate::{Error, Result};

/// One kernel's machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCode {
    /// The kernel's name, as in the pack of its PTX: `f16_d64_m128.sm_80`.
    pub kernel: String,
    /// The hash of the PTX that it was made of.
    pub ptx: String,
    /// The cubin: an ELF file.
    pub image: Vec<u8>,
}

/// The machine code of one generation's kernels for one architecture, compressed. Decoded once per process, when the first
/// kernel is asked for.
pub struct PackedCode {
    architecture: &'static str,
    bytes: &'static [u8],
    decoded: OnceLock<std::result::Result<Vec<MachineCode>, String>>,
}

impl PackedCode {
    /// The first word of the line before a kernel's code.
    pub const KERNEL: &'static str = "kernel";

    /// A pack as it is embedded. An empty one holds no kernel, so that a new crate compiles before its code is made.
    pub const fn new(architecture: &'static str, bytes: &'static [u8]) -> Self {
        Self { architecture, bytes, decoded: OnceLock::new() }
    }

    /// ptxas' name of the architecture: `sm_80`, `sm_90` or `sm_90a`.
    pub const fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The code of the kernel with this name; none if the pack has none of it.
    ///
    /// # Errors
    /// [`Error::Pack`] if the pack of the generation `id` cannot be decoded.
    pub(crate) fn find(&'static self, id: &'static str, kernel: &str) -> Result<Option<&'static [u8]>> {
        let decoded = self.decoded.get_or_init(|| Self::decode(self.bytes));
        let decoded = decoded.as_ref().map_err(|reason| Error::Pack { pack: id, reason: reason.clone() })?;
        Ok(decoded.iter().find(|code| code.kernel == kernel).map(|code| code.image.as_slice()))
    }

    /// What a pack's bytes hold.
    ///
    /// # Errors
    /// Why the bytes are no pack.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Vec<MachineCode>, String> {
        let mut all = Vec::new();
        if !bytes.is_empty() {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|error| error.to_string())?;
            decoder.read_to_end(&mut all).map_err(|error| error.to_string())?;
        }
        let (mut rest, mut kernels) = (all.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (line, after) = split_line(rest).ok_or("a line before a kernel's code has no end")?;
            let words: Vec<&str> = line.split(' ').collect();
            let [Self::KERNEL, kernel, ptx, length] = words[..] else {
                return Err(format!("`{line}` is no line before a kernel's code"));
            };
            let image = length.parse().ok().and_then(|length: usize| after.get(..length));
            let image = image.ok_or_else(|| format!("the code of {kernel} is cut short"))?;
            kernels.push(MachineCode { kernel: kernel.to_owned(), ptx: ptx.to_owned(), image: image.to_vec() });
            rest = &after[image.len()..];
        }
        Ok(kernels)
    }

    /// True if a device of this compute capability runs machine code for this architecture: the same major version, and a
    /// minor version that is not older. That of `sm_90a` runs on 9.0 alone.
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        match self.architecture {
            "sm_80" => major == 8,
            "sm_90" => major == 9,
            "sm_90a" => (major, minor) == (9, 0),
            _ => false,
        }
    }
}

/// The text before the first line's end, and what comes after it.
fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

impl fmt::Debug for PackedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedCode({}, {} bytes)", self.architecture, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Vec<u8> {
        crate::ptx::tests::frame(bytes).to_vec()
    }

    #[test]
    fn kernels_are_found_by_their_names_whatever_their_code_holds() {
        let bytes = frame(b"kernel a.sm_80 0123 8\n\x7fELF\nk\0\nkernel b.sm_80 4567 0\n");
        let decoded = PackedCode::decode(&bytes).unwrap();
        assert_eq!(decoded[0].image, b"\x7fELF\nk\0\n");
        assert_eq!((decoded[0].ptx.as_str(), decoded[1].kernel.as_str(), decoded.len()), ("0123", "b.sm_80", 2));
        let pack: &PackedCode = Box::leak(Box::new(PackedCode::new("sm_80", Vec::leak(bytes))));
        assert_eq!(pack.find("v0", "b.sm_80").unwrap(), Some(&[][..]));
        assert_eq!(pack.find("v0", "c.sm_80").unwrap(), None);
    }

    #[test]
    fn what_is_no_pack_is_told() {
        let said = |bytes: &[u8]| PackedCode::decode(&frame(bytes)).unwrap_err();
        assert_eq!(said(b"kernel a 0123 9\n12345678"), "the code of a is cut short");
        assert_eq!(said(b"kernel a 0123\n"), "`kernel a 0123` is no line before a kernel's code");
        assert_eq!(said(b"kernel"), "a line before a kernel's code has no end");
        assert!(PackedCode::decode(b"no frame").is_err());
        assert_eq!(PackedCode::decode(&[]), Ok(vec![]));
    }

    #[test]
    fn code_is_for_its_architecture_and_the_newer_ones_of_its_family() {
        let runs = |architecture| {
            [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
                .map(|capability| PackedCode::new(architecture, &[]).runs_on(capability))
        };
        assert_eq!(runs("sm_80"), [false, true, true, true, false, false, false]);
        assert_eq!(runs("sm_90"), [false, false, false, false, true, false, false]);
        assert_eq!(runs("sm_90a"), runs("sm_90"));
        assert_eq!(runs("sm_100"), [false; 7]);
    }
}
