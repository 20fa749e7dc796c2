//! What a problem may ask for beyond dense attention: packed sequences, used lengths, pages, windows, soft caps, sinks, slopes.

use std::ops::Range;

/// What a problem asks for beyond dense attention, or what a generation takes of it.
///
/// ```
/// use sdpa_core::{Extensions, Problem, Window};
///
/// let windowed = Problem::new(1, 8, 512, 64).window(Window::left(128)).build()?;
/// assert_eq!(windowed.extensions(), Extensions { window: true, ..Extensions::NONE });
/// assert_eq!(windowed.extensions().first_not_in(Extensions::NONE), Some("windows"));
/// # Ok::<(), sdpa_core::ProblemError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extensions {
    /// Sequences of different lengths behind one another: [`Packing`].
    pub packed: bool,
    /// Dense batches of which each sequence uses a number of its keys that stands on the device.
    pub key_lengths: bool,
    /// Keys on either side of the diagonal: [`Window`].
    pub window: bool,
    /// `cap · tanh(score / cap)`.
    pub softcap: bool,
    /// A logit for each query head that counts in the softmax's sum and has no value.
    pub sinks: bool,
    /// A slope for each query head: scores fall by it with each key of distance from the diagonal.
    pub slopes: bool,
    /// Keys and values in pages: [`Paging`].
    pub paged: bool,
    /// Values, and rows of the output, of another width than queries and keys.
    pub value_dim: bool,
    /// Keys and values in 8 bits: [`KvStorage::E4m3`].
    pub kv_e4m3: bool,
}

impl Extensions {
    /// Dense attention.
    pub const NONE: Self = Self {
        packed: false,
        key_lengths: false,
        window: false,
        softcap: false,
        sinks: false,
        slopes: false,
        paged: false,
        value_dim: false,
        kv_e4m3: false,
    };

    /// Everything that may be asked of keys and values in the problem's dtype that are equally wide. Other widths, and
    /// keys and values in 8 bits, need kernels made for them, which a generation names besides.
    pub const ALL: Self = Self {
        packed: true,
        key_lengths: true,
        window: true,
        softcap: true,
        sinks: true,
        slopes: true,
        paged: true,
        value_dim: false,
        kv_e4m3: false,
    };

    /// The first of these, in words, that `others` lack.
    pub fn first_not_in(self, others: Self) -> Option<&'static str> {
        [
            (self.packed, others.packed, "packed sequences"),
            (self.key_lengths, others.key_lengths, "key lengths on the device"),
            (self.window, others.window, "windows"),
            (self.softcap, others.softcap, "soft caps"),
            (self.sinks, others.sinks, "sinks"),
            (self.slopes, others.slopes, "slopes"),
            (self.paged, others.paged, "keys and values in pages"),
            (self.value_dim, others.value_dim, "values of another width than keys"),
            (self.kv_e4m3, others.kv_e4m3, "keys and values in e4m3"),
        ]
        .into_iter()
        .find(|(asked, taken, _)| *asked && !*taken)
        .map(|(.., name)| name)
    }
}

/// Sequences of different lengths behind one another, without padding between them: `[total, heads, head_dim]`.
///
/// Where each begins stands on the device, in cumulative lengths ([`Tensors::with_cu_seqlens`](crate::Tensors)); the host
/// knows what is here, and a plan follows from nothing else. So a recorded graph serves any lengths that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// How many sequences; empty ones count.
    pub sequences: usize,
    /// Most queries that any of them has.
    pub longest_q: usize,
    /// Most keys that any of them has.
    pub longest_kv: usize,
}

/// Keys and values in pages, as servers keep them: `[pages, heads_kv, page, head_dim]` or `[pages, page, heads_kv, head_dim]`,
/// which are only strides. A table on the device says which page holds which keys of a sequence
/// ([`Tensors::with_pages`](crate::Tensors::with_pages)), and numbers on the device how many keys each sequence has.
///
/// Of such a problem [`len_kv`](crate::Problem::len_kv) is the most keys that any sequence has. The host knows no more, so a
/// recorded graph serves lengths that grow up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Paging {
    /// Keys of a page: 8, 16, 32, 64, 128 or 256.
    pub page: usize,
    /// Pages that the tensors hold.
    pub pages: usize,
    /// Where the table's entries stand.
    pub table: PageTable,
}

/// How the table of pages lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageTable {
    /// `[sequences, width]`: a sequence's pages in order; what follows them is never read.
    Rows {
        /// Entries from one sequence's row to the next one's.
        width: usize,
    },
    /// The pages of all sequences behind one another, each sequence's first where `[sequences + 1]` numbers say it. Instead of
    /// the lengths the device has how many keys the last page of each sequence holds.
    Lists {
        /// Entries of all sequences together, or more.
        entries: usize,
    },
}

impl Paging {
    /// The sizes that a page may have.
    pub const SIZES: [usize; 6] = [8, 16, 32, 64, 128, 256];

    /// Pages that so many keys take.
    pub fn pages_of(&self, keys: usize) -> usize {
        keys.div_ceil(self.page)
    }

    /// Entries that the table has at least, for so many sequences of at most so many keys.
    pub fn entries(&self, sequences: usize, most_keys: usize) -> usize {
        match self.table {
            // What follows the last sequence's last page need not be there.
            PageTable::Rows { width } => match sequences {
                0 => 0,
                _ => (sequences - 1) * width + self.pages_of(most_keys),
            },
            PageTable::Lists { entries } => entries,
        }
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvStorage {
    /// In the problem's dtype, as everything else.
    #[default]
    Dtype,
    /// As OCP FP8 E4M3 (`torch.float8_e4m3fn`), each key and each value times a scale that stands on the device:
    /// [`Tensors::with_kv_scales`](crate::Tensors::with_kv_scales). Query and output keep the problem's dtype.
    E4m3(KvScales),
}

/// How many scales there are of keys, and as many of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvScales {
    /// One for all of a tensor: `[1]`.
    Tensor,
    /// One for each key head: `[heads_kv]`.
    Head,
}

impl KvStorage {
    /// As the text of a problem has it: nothing, `kv=e4m3`, or `kv=e4m3-per-head`.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Dtype => None,
            Self::E4m3(KvScales::Tensor) => Some("e4m3"),
            Self::E4m3(KvScales::Head) => Some("e4m3-per-head"),
        }
    }
}

/// How many keys on either side of the diagonal a query sees: query `i` sees the keys from `i + d - left` to `i + d + right`,
/// where `d` is 0 for the top-left causal mask and `len_kv - len_q`, of its own sequence, for everything else. A causal mask
/// holds besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Keys before the diagonal; all of them without a number.
    pub left: Option<usize>,
    /// Keys behind the diagonal; all of them without a number.
    pub right: Option<usize>,
}

impl Window {
    /// Every key.
    pub const ALL: Self = Self { left: None, right: None };

    /// So many keys before the diagonal, and all behind it: what a causal mask goes with.
    pub const fn left(keys: usize) -> Self {
        Self { left: Some(keys), right: None }
    }
}

/// The rows that belong together: queries of a tensor and the keys that they may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Positions in the query and the output.
    pub queries: Range<usize>,
    /// Positions in key and value.
    pub keys: Range<usize>,
}

/// Softmaxes with a larger cap than this are asked for without one.
pub const LARGEST_SOFTCAP: f32 = (1 << 20) as f32;
