//! The file that holds what a device gave: small enough for a repository, and readable without a library.
//!
//! ```text
//! "PTXGOLD1"                                        8 bytes
//! provenance: length, UTF-8                         u32, bytes
//! number of outputs                                 u32
//! for each: name (length, UTF-8)                    u32, bytes
//!           fingerprint of the probe                u64
//!           output (length, bytes)                  u32, bytes
//! FNV-1a of all bytes before                        u64
//! ```
//!
//! Numbers are little-endian.

use crate::{Fnv, Probe};

const MAGIC: &[u8; 8] = b"PTXGOLD1";

/// What one device gave for probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Which device and driver, for people.
    pub provenance: String,
    /// Outputs, in the order of [`probes`](super::probes).
    pub outputs: Vec<RecordedOutput>,
}

/// What one probe gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedOutput {
    /// The probe's name.
    pub name: String,
    /// The probe's [`fingerprint`](Probe::fingerprint).
    pub fingerprint: u64,
    /// The whole output buffer.
    pub bytes: Vec<u8>,
}

/// What a recording knows about a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded<'r> {
    /// The device's output.
    Output(&'r [u8]),
    /// An output of a probe of that name with another text or other inputs.
    Stale,
    /// Nothing.
    Missing,
}

/// Why bytes are no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Some other file.
    #[error("not a recording: it does not begin with PTXGOLD1")]
    Magic,
    /// Cut short, or changed since it was written.
    #[error("the recording is damaged: {0}")]
    Damaged(&'static str),
}

impl Recording {
    /// What it knows about a probe.
    pub fn of(&self, probe: &Probe) -> Recorded<'_> {
        match self.outputs.iter().find(|output| output.name == probe.name) {
            Some(output) if output.fingerprint == probe.fingerprint() => Recorded::Output(&output.bytes),
            Some(_) => Recorded::Stale,
            None => Recorded::Missing,
        }
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put(&mut bytes, self.provenance.as_bytes());
        bytes.extend((self.outputs.len() as u32).to_le_bytes());
        for output in &self.outputs {
            put(&mut bytes, output.name.as_bytes());
            bytes.extend(output.fingerprint.to_le_bytes());
            put(&mut bytes, &output.bytes);
        }
        let mut hash = Fnv::new();
        hash.bytes(&bytes);
        bytes.extend(hash.0.to_le_bytes());
        bytes
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Anything else than what [`to_bytes`](Self::to_bytes) makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordingError> {
        if !bytes.starts_with(MAGIC) {
            return Err(RecordingError::Magic);
        }
        let (content, sum) = bytes.split_last_chunk::<8>().ok_or(RecordingError::Damaged("it ends too early"))?;
        let mut hash = Fnv::new();
        hash.bytes(content);
        if hash.0 != u64::from_le_bytes(*sum) {
            return Err(RecordingError::Damaged("its checksum is another"));
        }
        let mut rest = content.get(MAGIC.len()..).ok_or(RecordingError::Damaged("it ends too early"))?;
        let provenance = text(&mut rest)?;
        let count = number(&mut rest)?;
        let mut outputs = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?;
            let fingerprint = u64::from_le_bytes(chunk(&mut rest)?);
            outputs.push(RecordedOutput { name, fingerprint, bytes: field(&mut rest)?.to_vec() });
        }
        match rest {
            [] => Ok(Self { provenance, outputs }),
            _ => Err(RecordingError::Damaged("it goes on after its last output")),
        }
    }
}

fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend((field.len() as u32).to_le_bytes());
    bytes.extend(field);
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordingError> {
    let (head, tail) = rest.split_first_chunk().ok_or(RecordingError::Damaged("it ends too early"))?;
    *rest = tail;
    Ok(*head)
}

fn number(rest: &mut &[u8]) -> Result<u32, RecordingError> {
    chunk(rest).map(u32::from_le_bytes)
}

fn field<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], RecordingError> {
    let length = number(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or(RecordingError::Damaged("it ends too early"))?;
    *rest = tail;
    Ok(head)
}

fn text(rest: &mut &[u8]) -> Result<String, RecordingError> {
    let bytes = field(rest)?.to_vec();
    String::from_utf8(bytes).map_err(|_| RecordingError::Damaged("a name is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Recording {
        let output =
            |name: &str, bytes: &[u8]| RecordedOutput { name: name.into(), fingerprint: 7, bytes: bytes.into() };
        Recording {
            provenance: "a device, a driver".into(),
            outputs: vec![output("add.s32", &[1, 2, 3, 4]), output("µ", &[]), output("last", &[9; 300])],
        }
    }

    #[test]
    fn a_recording_comes_back() {
        for recording in [sample(), Recording::default()] {
            assert_eq!(Recording::from_bytes(&recording.to_bytes()), Ok(recording));
        }
    }

    #[test]
    fn any_cut_and_any_change_is_noticed() {
        let bytes = sample().to_bytes();
        for length in 0..bytes.len() {
            assert!(Recording::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            assert!(Recording::from_bytes(&changed).is_err(), "byte {place}");
        }
        assert_eq!(Recording::from_bytes(b"\x7fELF"), Err(RecordingError::Magic));
    }

    #[test]
    fn a_probe_finds_its_own_output_only() {
        let mut probe = crate::probes().swap_remove(0);
        let output = |fingerprint| RecordedOutput { name: probe.name.clone(), fingerprint, bytes: vec![5] };
        let mut recording = Recording { provenance: String::new(), outputs: vec![output(probe.fingerprint())] };
        assert_eq!(recording.of(&probe), Recorded::Output(&[5]));
        probe.inputs[1][0] ^= 1;
        assert_eq!(recording.of(&probe), Recorded::Stale);
        recording.outputs.clear();
        assert_eq!(recording.of(&probe), Recorded::Missing);
    }
}
