//! The PTX of a generation's kernels, packed into one file that the generation's crate embeds.
//!
//! A pack is the PTX of all specialisations, one after the other, compressed with zstd. Before each text stands a line
//! that names it: `// kernel: f16_d64_m128.sm_80`. `sdpa build-ptx` writes packs and `sdpa ptx` prints them.
//! With a crate's feature `machine-code` its kernels' [machine code](crate::PackedCode) stands beside them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read as _;
use std::ops::Range;
use std::sync::OnceLock;

use crate::{Error, PackedCode, Result};

/// The PTX of one generation's kernels, compressed. Decoded once per process, when the first kernel is asked for.
///
/// ```
/// # use sdpa_core::PackedPtx;
/// // A generation's crate embeds its pack, and with its feature `machine-code` more: sdpa_core::packed!("v9", "sm_90a")
/// static PTX: PackedPtx = PackedPtx::new("v9", &[]);
/// assert!(PTX.text("f16_d64.sm_80").is_err(), "an empty pack holds no kernel");
/// ```
pub struct PackedPtx {
    id: &'static str,
    bytes: &'static [u8],
    code: &'static [PackedCode],
    decoded: OnceLock<std::result::Result<Decoded, String>>,
}

/// What a generation's crate embeds of its kernels, beside its `src`: `<id>.ptx.zst`, and with its feature `machine-code`
/// `<id>.<architecture>.cubin.zst` for each of these architectures. All of it is written by `sdpa build-ptx <id>`.
///
/// ```ignore
/// pub static PTX: PackedPtx = sdpa_core::packed!("v2d", "sm_80", "sm_90");
/// ```
#[macro_export]
macro_rules! packed {
    ($id:literal, $($architecture:literal),+) => {{
        #[cfg(feature = "machine-code")]
        static CODE: &[$crate::PackedCode] = {
            static CODE: [$crate::PackedCode; [$($architecture),+].len()] = [$($crate::PackedCode::new(
                $architecture,
                include_bytes!(concat!("../", $id, ".", $architecture, ".cubin.zst")),
            )),+];
            &CODE
        };
        #[cfg(not(feature = "machine-code"))]
        static CODE: &[$crate::PackedCode] = &[];
        $crate::PackedPtx::with_machine_code($id, include_bytes!(concat!("../", $id, ".ptx.zst")), CODE)
    }};
}

/// A pack's text and where each kernel lies in it.
struct Decoded {
    text: String,
    kernels: Vec<(Range<usize>, Range<usize>)>,
}

impl PackedPtx {
    /// The start of the line that names the kernel whose PTX follows.
    pub const KERNEL: &'static str = "// kernel: ";

    /// A pack as it is embedded. An empty one holds no kernel, so a new crate compiles before its PTX is made.
    pub const fn new(id: &'static str, bytes: &'static [u8]) -> Self {
        Self::with_machine_code(id, bytes, &[])
    }

    /// The same with its kernels' machine code for some architectures.
    pub const fn with_machine_code(id: &'static str, bytes: &'static [u8], code: &'static [PackedCode]) -> Self {
        Self { id, bytes, code, decoded: OnceLock::new() }
    }

    /// The machine code of the kernel with this name for a device of this compute capability; none if it must be compiled
    /// there.
    ///
    /// # Errors
    /// [`Error::Pack`] if a pack of machine code cannot be decoded.
    pub fn machine_code(&'static self, kernel: &str, compute_capability: (u32, u32)) -> Result<Option<&'static [u8]>> {
        for pack in self.code.iter().filter(|pack| pack.runs_on(compute_capability)) {
            if let Some(code) = pack.find(self.id, kernel)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// The generation's id, or `mutants`.
    pub const fn id(&self) -> &'static str {
        self.id
    }

    /// The PTX of the kernel with this name.
    ///
    /// # Errors
    /// [`Error::Pack`] if the pack cannot be decoded, [`Error::NoPtx`] if it does not hold the kernel.
    pub fn text(&'static self, kernel: &str) -> Result<&'static str> {
        let missing = || Error::NoPtx { kernel: kernel.to_owned(), pack: self.id };
        self.kernels()?.find(|(name, _)| *name == kernel).map(|(_, text)| text).ok_or_else(missing)
    }

    /// Every kernel's name and PTX, in the order of the pack.
    ///
    /// # Errors
    /// [`Error::Pack`] if the pack cannot be decoded.
    pub fn kernels(&'static self) -> Result<impl Iterator<Item = (&'static str, &'static str)>> {
        let decoded = self.decoded.get_or_init(|| Decoded::new(self.bytes));
        let decoded = decoded.as_ref().map_err(|reason| Error::Pack { pack: self.id, reason: reason.clone() })?;
        Ok(decoded.kernels.iter().map(|(name, text)| (&decoded.text[name.clone()], &decoded.text[text.clone()])))
    }

    /// The text that a pack's bytes hold: every kernel's PTX behind its [`KERNEL`](Self::KERNEL) line.
    ///
    /// # Errors
    /// Why the bytes are no pack.
    pub fn decode(bytes: &[u8]) -> std::result::Result<String, String> {
        let mut text = String::new();
        if !bytes.is_empty() {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|error| error.to_string())?;
            let mut decoder = decoder;
            decoder.read_to_string(&mut text).map_err(|error| error.to_string())?;
        }
        Ok(text)
    }
}

impl Decoded {
    fn new(bytes: &[u8]) -> std::result::Result<Self, String> {
        let text = PackedPtx::decode(bytes)?;
        let mut kernels: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let end = start + line.len();
            if let Some(name) = line.strip_prefix(PackedPtx::KERNEL) {
                let name_start = start + PackedPtx::KERNEL.len();
                kernels.push((name_start..name_start + name.trim_end().len(), end..end));
            } else if let Some((_, body)) = kernels.last_mut() {
                body.end = end;
            }
            start = end;
        }
        Ok(Self { text, kernels })
    }
}

/// Packs are told apart by their id: each is embedded once.
impl PartialEq for PackedPtx {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for PackedPtx {}

impl Hash for PackedPtx {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for PackedPtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedPtx({}, {} bytes)", self.id, self.bytes.len())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A zstd frame of one raw block (RFC 8878), as no compressor is among this crate's dependencies.
    pub(crate) fn frame(text: impl AsRef<[u8]>) -> &'static [u8] {
        let text = text.as_ref();
        let size = text.len() as u32;
        let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes()].concat();
        let block = (size << 3 | 1).to_le_bytes();
        Vec::leak([&header, &block[..3], text].concat())
    }

    #[test]
    fn kernels_are_found_by_their_names() {
        let bytes =
            frame("// kernel: f16_d64.sm_80\n// Generated\n.version 9.0\n// kernel: bf16_d64.sm_80\n.version 9.1\n");
        let pack: &PackedPtx = Box::leak(Box::new(PackedPtx::new("v0", bytes)));
        assert_eq!(pack.text("f16_d64.sm_80").unwrap(), "// Generated\n.version 9.0\n");
        assert_eq!(pack.text("bf16_d64.sm_80").unwrap(), ".version 9.1\n");
        assert_eq!(pack.kernels().unwrap().count(), 2);
    }

    #[test]
    fn machine_code_is_that_of_the_devices_architecture() {
        let packs =
            [PackedCode::new("sm_80", frame("kernel a 0 1\n8")), PackedCode::new("sm_90", frame("kernel a 0 1\n9"))];
        let pack: &PackedPtx = Box::leak(Box::new(PackedPtx::with_machine_code("v0", &[], Vec::leak(packs.into()))));
        let code = |kernel, capability| pack.machine_code(kernel, capability).unwrap();
        assert_eq!(code("a", (8, 9)), Some(&b"8"[..]));
        assert_eq!(code("a", (9, 0)), Some(&b"9"[..]));
        assert_eq!([code("a", (10, 0)), code("b", (9, 0))], [None; 2]);
        static BROKEN: PackedPtx = {
            static CODE: [PackedCode; 1] = [PackedCode::new("sm_90", b"code")];
            PackedPtx::with_machine_code("v0", &[], &CODE)
        };
        let broken = BROKEN.machine_code("a", (9, 0)).unwrap_err().to_string();
        assert!(broken.starts_with("the pack of v0 cannot be decoded: "), "{broken}");
        assert_eq!(BROKEN.machine_code("a", (8, 0)).unwrap(), None, "another architecture's pack is left alone");
    }

    #[test]
    fn a_missing_kernel_and_a_broken_pack_say_what_to_do() {
        static EMPTY: PackedPtx = PackedPtx::new("v0", &[]);
        static BROKEN: PackedPtx = PackedPtx::new("v0", b"PTX");
        let missing = EMPTY.text("f16_d64.sm_80").unwrap_err().to_string();
        assert_eq!(
            missing,
            "the pack of v0 holds no kernel f16_d64.sm_80: run `cargo run --release -- build-ptx v0` in the repository"
        );
        let broken = BROKEN.text("f16_d64.sm_80").unwrap_err().to_string();
        assert!(broken.starts_with("the pack of v0 cannot be decoded: "), "{broken}");
    }
}
