//! What is appended to what: shapes and strides, validated once.

use std::fmt;

use sdpa_core::{Extensions, Layout, Operand, Problem, Region, Strides};

use crate::AppendError;
use crate::kernels::THREADS;

/// The most tokens, pages and slots that kernels count.
const MOST: usize = i32::MAX as usize;

/// The most elements of a token: a grid has 65 535 rows of blocks at most.
const MOST_OF_TOKEN: usize = 65_535 * THREADS as usize;

/// Problems whose caches are keys and values in the problem's own type, however they lie: what is copied as it is.
const COPIED: Extensions = Extensions { value_dim: true, ..Extensions::ALL };

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Rows of `head_dim` elements.
    Key,
    /// Rows of `value_dim` elements.
    Value,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Key, Self::Value];

    /// What errors call the new rows.
    pub(crate) const fn new_name(self) -> &'static str {
        match self {
            Self::Key => "new_key",
            Self::Value => "new_value",
        }
    }

    /// What errors call the cache.
    pub(crate) const fn cache_name(self) -> &'static str {
        match self {
            Self::Key => "key_cache",
            Self::Value => "value_cache",
        }
    }
}

/// New keys and values of some tokens, and the caches that they go to. An `Append` that exists is valid.
///
/// The new ones are `[tokens, heads_kv, head_dim]` and `[tokens, heads_kv, value_dim]`, the caches
/// `[pages, heads_kv, page, head_dim]` and `[pages, heads_kv, page, value_dim]`; strides say in which order they lie, and the last
/// dimension is contiguous. Elements are f16 or bf16, the same in the cache as in the new rows.
///
/// ```
/// use sdpa_cache::Append;
/// use sdpa_core::Layout;
///
/// // 32 tokens to a cache of 100 pages of 16 keys that lies as [pages, page, heads_kv, head_dim].
/// let append = Append::new(32, 8, 128, 100, 16).cache_layout(Layout::Blhd).build()?;
/// assert_eq!(append.slots(), 1600);
/// # Ok::<(), sdpa_cache::AppendError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    tokens: usize,
    heads_kv: usize,
    /// Of a key and of a value.
    widths: [usize; 2],
    pages: usize,
    page: usize,
    /// Of the new rows: a token is a batch of one row.
    new: [Strides; 2],
    caches: [Strides; 2],
}

impl Append {
    /// Starts with new keys `[tokens, heads_kv, head_dim]`, values of the same shape, and caches
    /// `[pages, heads_kv, page, head_dim]`, all contiguous. Change what differs, then [`build`](AppendBuilder::build).
    #[expect(clippy::new_ret_no_self, reason = "it starts as its builder, so that it is validated once")]
    pub fn new(tokens: usize, heads_kv: usize, head_dim: usize, pages: usize, page: usize) -> AppendBuilder {
        AppendBuilder {
            tokens,
            heads_kv,
            head_dim,
            value_dim: head_dim,
            pages,
            page,
            layout: Layout::Bhld,
            new: [None; 2],
            caches: [None; 2],
            not_copied: None,
        }
    }

    /// Starts with the caches that this problem reads: their pages, or of contiguous ones each sequence's `len_kv` keys. The new
    /// keys and values of so many tokens are contiguous.
    pub fn to_caches_of(problem: &Problem, tokens: usize) -> AppendBuilder {
        let [pages, heads_kv, page, head_dim] = problem.shape(Operand::Key);
        let not_copied = problem.extensions().first_not_in(COPIED);
        let builder = Self::new(tokens, heads_kv, head_dim, pages, page)
            .value_dim(problem.value_dim())
            .cache_strides(Part::Key, problem.strides(Operand::Key))
            .cache_strides(Part::Value, problem.strides(Operand::Value));
        AppendBuilder { not_copied, ..builder }
    }

    /// New tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Key and value heads of each token.
    pub fn heads_kv(&self) -> usize {
        self.heads_kv
    }

    /// Elements of a key or of a value.
    pub fn width(&self, part: Part) -> usize {
        self.widths[part as usize]
    }

    /// Pages of the caches.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Keys of a page.
    pub fn page(&self) -> usize {
        self.page
    }

    /// Slots of the cache: from 0 to this, a slot names a place.
    pub fn slots(&self) -> usize {
        self.pages * self.page
    }

    /// Strides of the new rows in elements, from token to token as `batch`; there is one row of a token's head.
    pub(crate) fn new_strides(&self, part: Part) -> Strides {
        self.new[part as usize]
    }

    /// Strides of a cache, in elements: from page to page, from head to head, from place to place.
    pub fn cache_strides(&self, part: Part) -> Strides {
        self.caches[part as usize]
    }

    /// Elements of the new rows from their first to one past their last.
    pub fn new_span(&self, part: Part) -> usize {
        span(self.width(part), self.new_dimensions(part))
    }

    /// Elements of a cache from its first to one past its last.
    pub fn cache_span(&self, part: Part) -> usize {
        span(self.width(part), self.cache_dimensions(part))
    }

    /// The new rows' dimensions, each a count and a stride.
    pub(crate) fn new_dimensions(&self, part: Part) -> [(&'static str, usize, i64); 3] {
        let Strides { batch, head, row } = self.new_strides(part);
        [("token", self.tokens, batch), ("head", self.heads_kv, head), ("row", 1, row)]
    }

    /// A cache's dimensions, each a count and a stride.
    pub(crate) fn cache_dimensions(&self, part: Part) -> [(&'static str, usize, i64); 3] {
        let Strides { batch, head, row } = self.cache_strides(part);
        [("page", self.pages, batch), ("head", self.heads_kv, head), ("place", self.page, row)]
    }

    fn check(self) -> Result<Self, AppendError> {
        let [head_dim, value_dim] = self.widths;
        let sizes = [("heads_kv", self.heads_kv), ("head_dim", head_dim), ("value_dim", value_dim)];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(AppendError::Nothing { what });
        }
        let of_token = self.heads_kv.saturating_mul(head_dim.saturating_add(value_dim));
        let slots = self.pages.saturating_mul(self.page);
        let counts = [
            ("tokens", self.tokens, MOST),
            ("slots of the cache", slots, MOST),
            ("elements of a token", of_token, MOST_OF_TOKEN),
            ("pages", self.pages, MOST),
            ("keys of a page", self.page, MOST),
        ];
        if let Some((what, found, most)) = counts.into_iter().find(|(_, found, most)| found > most) {
            return Err(AppendError::TooLarge { what, found, most });
        }
        for part in Part::ALL {
            check_span(part.new_name(), self.width(part), self.new_dimensions(part))?;
            check_span(part.cache_name(), self.width(part), self.cache_dimensions(part))?;
            check_rows_apart(part.cache_name(), self.width(part), self.cache_dimensions(part))?;
        }
        Ok(self)
    }
}

/// `append 32 tokens h8 d128 to 100 pages of 16`; with `value_dim=` where values are of another width.
impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [head_dim, value_dim] = self.widths;
        write!(f, "append {} tokens h{} d{head_dim}", self.tokens, self.heads_kv)?;
        if value_dim != head_dim {
            write!(f, " value_dim={value_dim}")?;
        }
        write!(f, " to {} pages of {}", self.pages, self.page)
    }
}

fn span(width: usize, dimensions: [(&'static str, usize, i64); 3]) -> usize {
    Region::strided(0, width, dimensions.map(|(_, count, stride)| (count, stride)), 1).bytes()
}

fn check_span(
    tensor: &'static str,
    width: usize,
    dimensions: [(&'static str, usize, i64); 3],
) -> Result<(), AppendError> {
    let mut span = width as i64;
    for (dimension, count, stride) in dimensions {
        if stride < 0 {
            return Err(AppendError::NegativeStride { tensor, dimension, found: stride });
        }
        span = (count.max(1) as i64 - 1)
            .checked_mul(stride)
            .and_then(|extent| span.checked_add(extent))
            // Bytes, too, must be countable.
            .filter(|span| *span < i64::MAX / 8)
            .ok_or(AppendError::SpanOverflow { tensor })?;
    }
    Ok(())
}

/// Sorted by stride, each dimension must step over everything below it.
fn check_rows_apart(
    tensor: &'static str,
    width: usize,
    mut dimensions: [(&'static str, usize, i64); 3],
) -> Result<(), AppendError> {
    dimensions.sort_by_key(|(_, _, stride)| *stride);
    let mut needed = width as i64;
    for (dimension, count, stride) in dimensions.into_iter().filter(|(_, count, _)| *count > 1) {
        if stride < needed {
            return Err(AppendError::SharedRows { tensor, dimension, found: stride, needed });
        }
        needed += (count as i64 - 1) * stride;
    }
    Ok(())
}

/// An [`Append`] in the making.
#[derive(Clone, Debug)]
#[must_use]
pub struct AppendBuilder {
    tokens: usize,
    heads_kv: usize,
    head_dim: usize,
    value_dim: usize,
    pages: usize,
    page: usize,
    layout: Layout,
    /// Elements from token to token, and from head to head.
    new: [Option<[i64; 2]>; 2],
    caches: [Option<Strides>; 2],
    /// What the problem asks for whose caches no copy fills.
    not_copied: Option<&'static str>,
}

impl AppendBuilder {
    /// Elements of a value; as many as of a key, if nothing is said.
    pub fn value_dim(mut self, value_dim: usize) -> Self {
        self.value_dim = value_dim;
        self
    }

    /// The order of contiguous caches: `[pages, heads_kv, page, d]` or `[pages, page, heads_kv, d]`.
    pub fn cache_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Strides of a cache in elements: from page to page (`batch`), from head to head, from place to place (`row`).
    pub fn cache_strides(mut self, part: Part, strides: Strides) -> Self {
        self.caches[part as usize] = Some(strides);
        self
    }

    /// Strides of new rows in elements: from token to token, and from head to head. Rows may lie in a larger tensor, such as a
    /// projection's queries, keys and values side by side.
    pub fn new_strides(mut self, part: Part, token: i64, head: i64) -> Self {
        self.new[part as usize] = Some([token, head]);
        self
    }

    /// Validates.
    ///
    /// # Errors
    /// An [`AppendError`] that says what to change.
    pub fn build(self) -> Result<Append, AppendError> {
        if let Some(what) = self.not_copied {
            return Err(AppendError::NotCopied { what });
        }
        let widths = [self.head_dim, self.value_dim];
        let new = Part::ALL.map(|part| {
            let contiguous =
                [(self.heads_kv as i64).saturating_mul(widths[part as usize] as i64), widths[part as usize] as i64];
            let [batch, head] = self.new[part as usize].unwrap_or(contiguous);
            Strides { batch, head, row: 0 }
        });
        let caches = Part::ALL.map(|part| {
            self.caches[part as usize]
                .unwrap_or_else(|| self.layout.strides(self.heads_kv, self.page, widths[part as usize]))
        });
        let Self { tokens, heads_kv, pages, page, .. } = self;
        Append { tokens, heads_kv, widths, pages, page, new, caches }.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Caches of another type than new rows may not be filled with what these are.
    #[test]
    fn what_is_no_copy_is_declined() {
        let builder = AppendBuilder { not_copied: Some("keys of another type"), ..Append::new(1, 1, 8, 1, 8) };
        assert_eq!(
            builder.build().unwrap_err().to_string(),
            "appending copies f16 and bf16 as they are: it does not take keys of another type"
        );
    }
}
