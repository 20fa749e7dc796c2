//! On CPU tensors by the interpreter, beside candle's own operations in f32.

mod reference;

use candle_core::{DType, Device, IndexOp as _, Result, Tensor};
use sdpa_candle::*;

use reference::{Meant, reference};

/// The tests' process has the interpreter from its first line on.
fn interpreter() {
    static SET: std::sync::Once = std::sync::Once::new();
    // SAFETY: every test begins here, so nothing reads the environment meanwhile.
    SET.call_once(|| unsafe { std::env::set_var("SDPA_DEVICE", "interpreter") });
}

fn randn(shape: &[usize], dtype: DType, seed: f64) -> Tensor {
    reference::randn(shape, dtype, seed, &Device::Cpu).unwrap()
}

#[track_caller]
fn largest_difference(found: &Tensor, wanted: &Tensor) -> f32 {
    reference::largest_difference(found, wanted).unwrap()
}

#[track_caller]
fn same(found: &Tensor, wanted: &Tensor) {
    let limit = if found.dtype() == DType::BF16 { 2e-2 } else { 3e-3 };
    let found = largest_difference(found, wanted);
    assert!(found <= limit, "differs by {found}");
}

fn tensors(dtype: DType) -> [Tensor; 3] {
    [randn(&[2, 37, 4, 64], dtype, 0.1), randn(&[2, 50, 2, 64], dtype, 0.2), randn(&[2, 50, 2, 64], dtype, 0.3)]
}

const SCALE: f32 = 0.3;

#[test]
fn dense() -> Result<()> {
    interpreter();
    for dtype in [DType::F16, DType::BF16] {
        let [q, k, v] = tensors(dtype);
        let full = Meant { scale: SCALE, ..Meant::default() };
        let causal = Meant { right: Some(0), ..full.clone() };
        let (wanted, sums) = reference(&q, &k, &v, &full)?;
        let found = flash_attn(&q, &k, &v, SCALE, false)?;
        assert_eq!(found.dtype(), dtype);
        same(&found, &wanted);
        let (again, lse) = flash_attn_lse(&q, &k, &v, SCALE, false)?;
        assert_eq!(largest_difference(&again, &found.to_dtype(DType::F32)?), 0.0);
        assert!(largest_difference(&lse, &sums) < 2e-3);
        let (causal_wanted, sums) = reference(&q, &k, &v, &causal)?;
        let (found, lse) = flash_attn_lse(&q, &k, &v, SCALE, true)?;
        same(&found, &causal_wanted);
        assert!(largest_difference(&lse, &sums) < 2e-3);
        assert!(largest_difference(&found, &wanted) > 0.1, "the mask changes nothing");
    }
    Ok(())
}

#[test]
fn windows_slopes_and_soft_caps() -> Result<()> {
    interpreter();
    let [q, k, v] = tensors(DType::F16);
    let numbers = vec![0.5f32, 0.25, 0.125, 0.06];
    let slopes = Tensor::from_vec(numbers.clone(), 4, &Device::Cpu)?;
    let window = Meant { scale: SCALE, left: Some(6), right: Some(3), ..Meant::default() };
    let wanted = |meant: &Meant| reference(&q, &k, &v, meant).map(|found| found.0);
    same(&flash_attn_windowed(&q, &k, &v, SCALE, Some(6), Some(3))?, &wanted(&window)?);
    let local = Meant { right: Some(0), ..window.clone() };
    same(&flash_attn_windowed(&q, &k, &v, SCALE, Some(6), Some(0))?, &wanted(&local)?);
    let sloped = Meant { scale: SCALE, right: Some(0), slopes: Some(numbers.clone()), ..Meant::default() };
    same(&flash_attn_alibi(&q, &k, &v, &slopes, SCALE, true)?, &wanted(&sloped)?);
    let both = Meant { slopes: Some(numbers), ..window.clone() };
    same(&flash_attn_alibi_windowed(&q, &k, &v, &slopes, SCALE, Some(6), Some(3))?, &wanted(&both)?);
    let capped = Meant { softcap: 1.5, ..both };
    let found = flash_attn_alibi_windowed_softcap(&q, &k, &v, Some(&slopes), SCALE, Some(6), Some(3), 1.5)?;
    same(&found, &wanted(&capped)?);
    let found = flash_attn_alibi_windowed_softcap(&q, &k, &v, None, SCALE, Some(6), Some(3), 0.0)?;
    same(&found, &wanted(&window)?);
    Ok(())
}

#[test]
fn packed() -> Result<()> {
    interpreter();
    let (lengths_q, lengths_k) = ([5, 40, 1, 18], [5, 44, 17, 18]);
    let begins = |lengths: &[usize]| {
        let mut begins = vec![0u32];
        lengths.iter().for_each(|length| begins.push(begins[begins.len() - 1] + *length as u32));
        begins
    };
    let (begins_q, begins_k) = (begins(&lengths_q), begins(&lengths_k));
    let (total_q, total_k) = (begins_q[4] as usize, begins_k[4] as usize);
    let q = randn(&[total_q, 4, 64], DType::F16, 0.1);
    let [k, v] = [0.2, 0.3].map(|seed| randn(&[total_k, 2, 64], DType::F16, seed));
    let cu_q = Tensor::from_vec(begins_q.clone(), 5, &Device::Cpu)?;
    let cu_k = Tensor::from_vec(begins_k.clone(), 5, &Device::Cpu)?;
    let numbers = vec![0.5f32, 0.25, 0.125, 0.06];
    let slopes = Tensor::from_vec(numbers.clone(), 4, &Device::Cpu)?;
    let check = |found: &Tensor, lse: Option<&Tensor>, meant: &Meant| -> Result<()> {
        assert_eq!(found.dims(), q.dims());
        for one in 0..4 {
            let rows = |begins: &[u32]| begins[one] as usize..begins[one + 1] as usize;
            let (queries, keys) = (rows(&begins_q), rows(&begins_k));
            let part = |tensor: &Tensor, rows: &std::ops::Range<usize>| tensor.i(rows.clone())?.unsqueeze(0);
            let (wanted, sums) = reference(&part(&q, &queries)?, &part(&k, &keys)?, &part(&v, &keys)?, meant)?;
            same(&part(found, &queries)?, &wanted);
            if let Some(lse) = lse {
                assert!(largest_difference(&lse.i((.., queries))?.unsqueeze(0)?, &sums) < 2e-3);
            }
        }
        Ok(())
    };
    let full = Meant { scale: SCALE, ..Meant::default() };
    let causal = Meant { right: Some(0), ..full.clone() };
    let window = Meant { left: Some(4), right: Some(2), ..full.clone() };
    let sloped = Meant { slopes: Some(numbers), ..causal.clone() };
    let both = Meant { left: Some(4), right: Some(2), ..sloped.clone() };
    check(&flash_attn_varlen(&q, &k, &v, &cu_q, &cu_k, 40, 44, SCALE, false)?, None, &full)?;
    check(&flash_attn_varlen(&q, &k, &v, &cu_q, &cu_k, 400, 400, SCALE, true)?, None, &causal)?;
    let (found, lse) = flash_attn_varlen_lse(&q, &k, &v, &cu_q, &cu_k, 40, 44, SCALE, true)?;
    assert_eq!(lse.dims(), [4, total_q]);
    check(&found, Some(&lse), &causal)?;
    let found = flash_attn_varlen_windowed(&q, &k, &v, &cu_q, &cu_k, 40, 44, SCALE, Some(4), Some(2))?;
    check(&found, None, &window)?;
    check(&flash_attn_varlen_alibi(&q, &k, &v, &slopes, &cu_q, &cu_k, 40, 44, SCALE, true)?, None, &sloped)?;
    let found = flash_attn_varlen_alibi_windowed(&q, &k, &v, &slopes, &cu_q, &cu_k, 40, 44, SCALE, Some(4), Some(2))?;
    check(&found, None, &both)?;
    let capped = Meant { softcap: 1.2, ..both };
    let (left, right) = (Some(4), Some(2));
    let found = flash_attn_varlen_alibi_windowed_softcap(
        &q,
        &k,
        &v,
        Some(&slopes),
        &cu_q,
        &cu_k,
        40,
        44,
        SCALE,
        left,
        right,
        1.2,
    )?;
    check(&found, None, &capped)
}

#[test]
fn heads_before_rows() -> Result<()> {
    interpreter();
    let [q, k, v] = tensors(DType::F16);
    let [q, k, v] = [&q, &k, &v].map(|tensor| tensor.transpose(1, 2).unwrap());
    let rows = |tensor: &Tensor| tensor.transpose(1, 2);
    let meant = Meant { scale: SCALE, right: Some(0), ..Meant::default() };
    let wanted = |meant: &Meant| reference(&rows(&q)?, &rows(&k)?, &rows(&v)?, meant)?.0.transpose(1, 2)?.contiguous();
    same(&sdpa(&q, &k, &v, None, true, SCALE, 1.0)?, &wanted(&meant)?);
    let capped = Meant { softcap: 2.0, right: None, ..meant };
    same(&sdpa(&q.contiguous()?, &k, &v, None, false, SCALE, 2.0)?, &wanted(&capped)?);
    Ok(())
}

#[test]
fn views_are_read_where_they_lie() -> Result<()> {
    interpreter();
    // Thirds of one projection, and rows from the middle of a tensor.
    let projected = randn(&[2, 30, 3, 4, 64], DType::F16, 0.4);
    let third = |index: usize| projected.i((.., 3..27, index));
    let (q, k, v) = (third(0)?, third(1)?, third(2)?);
    assert!(!q.is_contiguous() && q.layout().start_offset() > 0);
    let found = flash_attn(&q, &k, &v, SCALE, false)?;
    assert!(found.is_contiguous());
    same(&found, &reference(&q, &k, &v, &Meant { scale: SCALE, ..Meant::default() })?.0);
    Ok(())
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &str) {
    let Err(error) = result else { panic!("taken; it should say {words}") };
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn what_is_not_taken_is_said() -> Result<()> {
    interpreter();
    let [q, k, v] = tensors(DType::F16);
    let begins = Tensor::from_vec(vec![0u32, 37], 2, &Device::Cpu)?;
    let mask = Tensor::zeros((2, 4, 37, 50), DType::F16, &Device::Cpu)?;
    refused(sdpa(&q, &k, &v, Some(&mask), false, SCALE, 1.0), "no kernels for masks as tensors");
    let paged = flash_attn_varlen_paged_windowed(
        &q, &k, &v, &begins, &begins, &begins, None, 1, 1, SCALE, None, None, 32, None,
    );
    refused(paged, "no kernels for paged caches yet");
    let single = |tensor: &Tensor| tensor.to_dtype(DType::F32);
    refused(flash_attn(&single(&q)?, &single(&k)?, &single(&v)?, SCALE, false), "query is f32: f16 or bf16");
    refused(flash_attn(&q, &k.to_dtype(DType::BF16)?, &v, SCALE, false), "key is bf16 and query is f16");
    refused(flash_attn(&q, &k, &v.narrow(1, 0, 20)?, SCALE, false), "key and value alike");
    refused(
        flash_attn(&q.i(0)?, &k, &v, SCALE, false),
        "query has the shape [37, 4, 64]: [batch, length, heads, head_dim]",
    );
    refused(flash_attn_lse(&q.i(0)?, &k, &v, SCALE, false), "query has the shape [37, 4, 64]");
    refused(flash_attn(&q.transpose(2, 3)?, &k, &v, SCALE, false), "query's last dimension has the stride 64");
    refused(flash_attn(&q.narrow(2, 0, 3)?, &k, &v, SCALE, false), "heads_q is 3 and heads_kv is 2");
    refused(flash_attn(&q, &k, &v, f32::NAN, false), "scale is NaN");
    let slopes = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
    refused(flash_attn_alibi(&q, &k, &v, &slopes, SCALE, false), "alibi_slopes has the shape [3]: [4] is wanted");
    let slopes = Tensor::zeros(4, DType::F16, &Device::Cpu)?;
    refused(flash_attn_alibi(&q, &k, &v, &slopes, SCALE, false), "alibi_slopes is f16: f32 is wanted");
    let row = q.i(0)?;
    let floats = begins.to_dtype(DType::F32)?;
    refused(
        flash_attn_varlen(&row, &row, &row, &floats, &floats, 37, 37, SCALE, false),
        "seqlens_q is f32: u32 is wanted",
    );
    let more = Tensor::from_vec(vec![0u32, 20, 37], 3, &Device::Cpu)?;
    refused(flash_attn_varlen(&row, &row, &row, &begins, &more, 37, 37, SCALE, false), "seqlens_q has 2 numbers");
    let variable = candle_core::Var::from_tensor(&q)?;
    let loss = flash_attn(variable.as_tensor(), &k, &v, SCALE, false)?.sum_all()?;
    refused(loss.backward(), "sdpa-candle");
    Ok(())
}
