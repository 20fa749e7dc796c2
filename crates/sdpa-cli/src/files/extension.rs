//! What packed sequences, key lengths, sinks and slopes read, from a user's file.

use half::{bf16, f16};
use harness::regime::{ExtensionData, NO_PAGE};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensors};
use sdpa_core::{ElementType, KvScales, KvStorage, ProblemError};

use super::{FileError, decode};

/// True if the tensors are sequences behind one another.
///
/// # Errors
/// [`FileError::Needed`] if it says only where the keys of each sequence begin.
pub(super) fn is_packed(file: &SafeTensors<'_>) -> Result<bool, FileError> {
    let holds = |name: &str| file.tensor(name).is_ok();
    match (holds("cu_seqlens_q"), holds("cu_seqlens_k")) {
        (false, true) => Err(FileError::Needed {
            name: "cu_seqlens_q",
            why: "the file holds `cu_seqlens_k`, which says where each sequence's keys begin; add where its queries do"
                .to_owned(),
        }),
        (packed, _) => Ok(packed),
    }
}

/// Reads what there is; `query` is [batch, heads, length, head_dim] of `q`, `pages` how many pages of how many keys `k` has, if the
/// file holds `block_table`. Returns with it how wide that is.
///
/// # Errors
/// A [`FileError`] that names the first thing found wrong.
pub(super) fn read(
    file: &SafeTensors<'_>,
    query @ [batch, _, len_q, _]: [usize; 4],
    len_kv: usize,
    pages: Option<[usize; 2]>,
) -> Result<(ExtensionData, usize), FileError> {
    let (mut read, mut width) = (ExtensionData::default(), 0);
    if let Ok(view) = file.tensor("cu_seqlens_q") {
        read.cu_seqlens_q = cu_seqlens("cu_seqlens_q", &view, ("q", len_q))?;
        read.cu_seqlens_k = match file.tensor("cu_seqlens_k") {
            Ok(_) if pages.is_some() => {
                let found = "is there beside `block_table`".to_owned();
                return wrong("cu_seqlens_k", found, "`key_lengths` alone, since keys in pages are not packed");
            }
            Err(_) if pages.is_some() => Vec::new(),
            Ok(view) => cu_seqlens("cu_seqlens_k", &view, ("k", len_kv))?,
            Err(_) if len_q == len_kv => read.cu_seqlens_q.clone(),
            Err(_) => {
                let why = format!(
                    "`q` has {len_q} rows and `k` {len_kv}, so `cu_seqlens_q` cannot serve both; add where each \
                     sequence's keys begin"
                );
                return Err(FileError::Needed { name: "cu_seqlens_k", why });
            }
        };
        let [needed, found] = [&read.cu_seqlens_q, &read.cu_seqlens_k].map(Vec::len);
        if pages.is_none() && found != needed {
            return wrong(
                "cu_seqlens_k",
                format!("has {found} numbers"),
                format!("{needed}, as many as `cu_seqlens_q` has"),
            );
        }
    }
    if let Some(pages) = pages {
        let sequences = if read.cu_seqlens_q.is_empty() { batch } else { read.cu_seqlens_q.len() - 1 };
        width = read_pages(file, &mut read, sequences, pages)?;
    } else if let Ok(view) = file.tensor("key_lengths") {
        if !read.cu_seqlens_q.is_empty() {
            return Err(FileError::Problem { error: ProblemError::PackedKeyLengths, transposed: None });
        }
        read.key_lengths = key_lengths(&view, batch, (len_kv, "the length of `k`"))?;
    }
    let is_sink = |sink: f32| sink.is_finite() || sink == f32::NEG_INFINITY;
    read.sinks = of_each_head(file, "sinks", query, is_sink, "numbers, or −∞ for a head without a sink")?;
    read.slopes = of_each_head(file, "slopes", query, f32::is_finite, "finite numbers")?;
    Ok((read, width))
}

/// What elements of `k` and `v` in 8 bits are multiplied by: `k_scale` and `v_scale`, one for all or one for each of their heads.
///
/// # Errors
/// A [`FileError`] if they are missing, do not fit or are not wanted.
pub(super) fn read_scales(
    file: &SafeTensors<'_>,
    read: &mut ExtensionData,
    stored: ElementType,
    heads_kv: usize,
) -> Result<KvStorage, FileError> {
    let mut scales = Vec::new();
    for name in ["k_scale", "v_scale"] {
        match (file.tensor(name), stored) {
            (Err(_), ElementType::Dtype(_)) => return Ok(KvStorage::Dtype),
            (Ok(_), ElementType::Dtype(dtype)) => {
                return wrong(name, format!("is there, and `k` is {dtype}"), "`k` and `v` in f8_e4m3 beside it");
            }
            (Err(_), ElementType::E4m3) => {
                let of = name.trim_end_matches("_scale");
                let why = format!("`{of}` is f8_e4m3; add what its elements are multiplied by, [1] or [{heads_kv}]");
                return Err(FileError::Needed { name, why });
            }
            (Ok(view), ElementType::E4m3) => scales.push(scales_of(name, &view, heads_kv)?),
        }
    }
    let [key, value] = scales.try_into().expect("two of them were read");
    if key.len() != value.len() {
        let (found, expected) = (format!("has {} numbers", value.len()), format!("{}, as `k_scale`", key.len()));
        return wrong("v_scale", found, expected);
    }
    let of = if key.len() == heads_kv && heads_kv > 1 { KvScales::Head } else { KvScales::Tensor };
    (read.key_scale, read.value_scale) = (key, value);
    Ok(KvStorage::E4m3(of))
}

fn scales_of(name: &'static str, view: &TensorView<'_>, heads_kv: usize) -> Result<Vec<f32>, FileError> {
    let numbers = match view.dtype() {
        FileDtype::F32 => decode(view.data(), f32::from_le_bytes),
        other => return wrong(name, format!("is {}", format!("{other:?}").to_lowercase()), "f32"),
    };
    if !matches!(view.shape(), [] | [_]) || ![1, heads_kv].contains(&numbers.len()) {
        let expected = format!("[1], or [{heads_kv}], one number for each head of `k`");
        return wrong(name, format!("has shape {:?}", view.shape()), expected);
    }
    // What is beyond has no place among f32 once it is multiplied by the scale and by 256.
    match numbers.iter().position(|scale| !(f32::MIN_POSITIVE..=1e30).contains(scale)) {
        Some(index) => wrong(name, format!("holds {} at index {index}", numbers[index]), "positive numbers up to 1e30"),
        None => Ok(numbers),
    }
}

/// The table of pages and how many keys each sequence has; how wide the table is.
fn read_pages(
    file: &SafeTensors<'_>,
    read: &mut ExtensionData,
    sequences: usize,
    [pages, page]: [usize; 2],
) -> Result<usize, FileError> {
    const NAME: &str = "block_table";

    let table = file.tensor(NAME).map_err(|_| FileError::Needed { name: NAME, why: "`k` has pages".to_owned() })?;
    let &[rows, width] = table.shape() else {
        return wrong(NAME, format!("has shape {:?}", table.shape()), format!("[{sequences}, pages of a sequence]"));
    };
    if rows != sequences {
        return wrong(NAME, format!("has {rows} rows"), format!("{sequences}, one for each sequence"));
    }
    let lengths = file.tensor("key_lengths").map_err(|_| FileError::Needed {
        name: "key_lengths",
        why: "the file holds `block_table`; add how many keys each sequence has".to_owned(),
    })?;
    read.key_lengths = key_lengths(&lengths, sequences, (width * page, "what a row of `block_table` has room for"))?;
    let entries = integers(NAME, &table)?;
    for (sequence, length) in read.key_lengths.iter().enumerate() {
        let own = &entries[sequence * width..][..(*length as usize).div_ceil(page.max(1))];
        if let Some(index) = own.iter().position(|entry| *entry < 0 || *entry >= pages as i64) {
            let found = format!("holds {} at [{sequence}, {index}]", own[index]);
            return wrong(NAME, found, format!("from 0 to {}, a page of `k`", pages as i64 - 1));
        }
    }
    // What lies behind a sequence's pages may be anything.
    read.block_table = entries.into_iter().map(|entry| u32::try_from(entry).unwrap_or(NO_PAGE)).collect();
    Ok(width)
}

fn wrong<T>(name: &'static str, found: String, expected: impl Into<String>) -> Result<T, FileError> {
    Err(FileError::Extension { name, found, expected: expected.into() })
}

/// The one dimension of a tensor.
fn length(name: &'static str, view: &TensorView<'_>, expected: impl FnOnce() -> String) -> Result<usize, FileError> {
    match view.shape() {
        &[length] => Ok(length),
        shape => wrong(name, format!("has shape {shape:?}"), expected()),
    }
}

fn integers(name: &'static str, view: &TensorView<'_>) -> Result<Vec<i64>, FileError> {
    let data = view.data();
    match view.dtype() {
        FileDtype::I32 => Ok(decode(data, |bytes| i64::from(i32::from_le_bytes(bytes)))),
        FileDtype::U32 => Ok(decode(data, |bytes| i64::from(u32::from_le_bytes(bytes)))),
        FileDtype::I64 => Ok(decode(data, i64::from_le_bytes)),
        other => wrong(name, format!("is {}", format!("{other:?}").to_lowercase()), "i32, u32 or i64"),
    }
}

/// Where each sequence begins in the rows of an operand, and the last one ends.
fn cu_seqlens(
    name: &'static str,
    view: &TensorView<'_>,
    (operand, rows): (&str, usize),
) -> Result<Vec<u32>, FileError> {
    let expected = || "[sequences + 1], where each sequence begins and the last one ends".to_owned();
    if length(name, view, expected)? == 0 {
        return wrong(name, "has no numbers".to_owned(), expected());
    }
    let numbers = integers(name, view)?;
    if numbers[0] != 0 {
        return wrong(
            name,
            format!("starts at {}", numbers[0]),
            "0, where the first sequence begins; lengths must be added up",
        );
    }
    if let Some(index) = numbers.windows(2).position(|pair| pair[1] < pair[0]) {
        let (before, after) = (numbers[index], numbers[index + 1]);
        return wrong(
            name,
            format!("falls from {before} to {after} at index {}", index + 1),
            "numbers that never fall, since each sequence begins where the one before it ends",
        );
    }
    // Those before are no larger, and the first is 0.
    let end = numbers[numbers.len() - 1];
    match u32::try_from(end) {
        Ok(end) if end as usize <= rows => Ok(numbers.into_iter().map(|number| number as u32).collect()),
        _ => wrong(name, format!("ends at {end}"), format!("at most {rows}, the rows of `{operand}`")),
    }
}

fn key_lengths(view: &TensorView<'_>, batch: usize, (most, why): (usize, &str)) -> Result<Vec<u32>, FileError> {
    const NAME: &str = "key_lengths";

    let expected = || format!("[{batch}], one number for each sequence of the batch");
    if length(NAME, view, expected)? != batch {
        return wrong(NAME, format!("has shape {:?}", view.shape()), expected());
    }
    let numbers = integers(NAME, view)?;
    match numbers.iter().position(|number| *number < 0 || *number > most as i64) {
        Some(index) => {
            wrong(NAME, format!("holds {} at index {index}", numbers[index]), format!("from 0 to {most}, {why}"))
        }
        None => Ok(numbers.into_iter().map(|number| number as u32).collect()),
    }
}

/// A number for each query head, if the file holds such a tensor.
fn of_each_head(
    file: &SafeTensors<'_>,
    name: &'static str,
    [_, heads, ..]: [usize; 4],
    is_fit: impl Fn(f32) -> bool,
    fit: &str,
) -> Result<Vec<f32>, FileError> {
    let Ok(view) = file.tensor(name) else { return Ok(Vec::new()) };
    let expected = || format!("[{heads}], one number for each head of `q`");
    if length(name, &view, expected)? != heads {
        return wrong(name, format!("has shape {:?}", view.shape()), expected());
    }
    let data = view.data();
    let numbers: Vec<f32> = match view.dtype() {
        FileDtype::F32 => decode(data, f32::from_le_bytes),
        FileDtype::F16 => decode(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
        FileDtype::BF16 => decode(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => return wrong(name, format!("is {}", format!("{other:?}").to_lowercase()), "f32, f16 or bf16"),
    };
    match numbers.iter().position(|number| !is_fit(*number)) {
        Some(index) => wrong(name, format!("holds {} at index {index}", numbers[index]), fit),
        None => Ok(numbers),
    }
}
