//! What a question means, by candle's own operations in f32. The tests and `--check` of the example minilm compare with it.

use candle_core::{D, DType, Device, Result, Tensor, bail};

/// Reproducible numbers, as spread as random ones.
pub(crate) fn randn(shape: &[usize], dtype: DType, seed: f64, device: &Device) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> =
        (0..count).map(|index| ((index as f64 * 0.7389 + seed) * 12.9898).sin() as f32 * 1.7).collect();
    Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
}

/// A question beside its query, key and value.
#[derive(Clone, Default)]
pub(crate) struct Meant {
    pub(crate) scale: f32,
    pub(crate) left: Option<usize>,
    pub(crate) right: Option<usize>,
    pub(crate) slopes: Option<Vec<f32>>,
    pub(crate) softcap: f32,
}

/// The output `[batch, len_q, heads, head_dim]`, and the log-sum-exp `[batch, heads, len_q]`.
pub(crate) fn reference(q: &Tensor, k: &Tensor, v: &Tensor, meant: &Meant) -> Result<(Tensor, Tensor)> {
    let heads_first = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
    let (_, heads, len_q, _) = q.dims4()?;
    let (batch, heads_kv, len_kv, head_dim) = k.dims4()?;
    let repeat = |tensor: &Tensor| {
        let wide = (batch, heads_kv, heads / heads_kv, len_kv, head_dim);
        tensor.unsqueeze(2)?.broadcast_as(wide)?.contiguous()?.reshape((batch, heads, len_kv, head_dim))
    };
    let (k, v) = (repeat(&k)?, repeat(&v)?);
    let mut scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * f64::from(meant.scale))?;
    if meant.softcap > 0.0 {
        scores = ((scores / f64::from(meant.softcap))?.tanh()? * f64::from(meant.softcap))?;
    }
    let mut bias = vec![0f32; heads * len_q * len_kv];
    for head in 0..heads {
        for row in 0..len_q {
            for key in 0..len_kv {
                let distance = row as i64 + len_kv as i64 - len_q as i64 - key as i64;
                let hidden = meant.left.is_some_and(|left| distance > left as i64)
                    || meant.right.is_some_and(|right| distance < -(right as i64));
                let slope = meant.slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
                bias[(head * len_q + row) * len_kv + key] =
                    if hidden { f32::NEG_INFINITY } else { -slope * distance.abs() as f32 };
            }
        }
    }
    let scores = scores.broadcast_add(&Tensor::from_vec(bias, (1, heads, len_q, len_kv), scores.device())?)?;
    let lse = scores.log_sum_exp(D::Minus1)?;
    let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    Ok((out.transpose(1, 2)?.contiguous()?, lse))
}

/// The largest difference of two tensors of one shape, compared on the CPU: a maximum on a GPU would pass over NaN.
pub(crate) fn largest_difference(found: &Tensor, wanted: &Tensor) -> Result<f32> {
    if found.dims() != wanted.dims() {
        bail!("its shape is {:?}: {:?} is wanted", found.dims(), wanted.dims());
    }
    let numbers = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let mut largest = 0f32;
    for (found, wanted) in numbers(found)?.into_iter().zip(numbers(wanted)?) {
        let difference = (found - wanted).abs();
        if difference.is_nan() {
            bail!("{found} stands where {wanted} is wanted");
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}
