//! Functions that a plugin's programs for this processor are offered, so that they need not compile their own.

use std::path::PathBuf;

use super::api::Api;
use super::error::{Error, Result};
use super::packages::{Holds, PACKAGES};
use super::whole::Trust;
use super::{blocked_sums, discover, fetch, ffi, maxima, onednn, sparse, sums};
use models::layers::sparse as layers;

/// Environment variable with the path of a oneDNN library, or `off`.
const VARIABLE: &str = "RIGL_XLA_ONEDNN";

/// Offers the programs of a plugin [`lowering::COLUMN_SUMS`], [`lowering::MAX_POOL`], [`lowering::MAX_POOL_GRADIENT`], and, computed by oneDNN, which is fetched
/// where it is not in the cache, [`lowering::DIRECT_CONVOLUTION`] and [`lowering::PACK_KERNEL`]. What computes the latter; `None` where
/// the user turned it off, the plugin cannot call functions, or there is no library for this processor or none can be fetched,
/// which is noted.
///
/// # Errors
/// When what the user named is no such library, and the plugin's.
pub(super) fn offer(api: &Api) -> Result<Option<String>> {
    let named = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    if named.as_deref() == Some("off") {
        return Ok(None);
    }
    let functions: [(&str, ffi::Handler); 11] = [
        (lowering::DIRECT_CONVOLUTION, onednn::convolution),
        (lowering::PACK_KERNEL, onednn::kernel),
        (lowering::COLUMN_SUMS, sums::columns),
        (lowering::MAX_POOL, maxima::forward),
        (lowering::MAX_POOL_GRADIENT, maxima::gradient),
        (layers::BLOCKED_MOMENTS, blocked_sums::moments),
        (layers::BLOCKED_PRODUCTS, blocked_sums::products),
        (layers::MASK_KEY, sparse::mask_key),
        (layers::SPARSE_FORWARD, sparse::forward),
        (layers::SPARSE_INPUT_GRADIENT, sparse::input_gradient),
        (layers::SPARSE_KERNEL_GRADIENT, sparse::kernel_gradient),
    ];
    for (name, function) in functions {
        if !ffi::offer(api, name, function)? {
            return Ok(None);
        }
    }
    let path = match &named {
        Some(path) => PathBuf::from(path),
        None => match find() {
            Ok(Some(path)) => path,
            Ok(None) => return Ok(None),
            Err(why) => {
                crate::report::note!("convolutions will be slower: {why}");
                return Ok(None);
            }
        },
    };
    // Each thread of the plugin's that calls a convolution has as many helpers as there are processors.
    Error::unless_threads("oneDNN", super::share::threads().pow(2))?;
    let loaded = onednn::load(&path).map(|version| format!("{version} ({})", path.display()));
    match loaded {
        Ok(loaded) => Ok(Some(loaded)),
        Err(reason) if named.is_some() => Err(Error::NotKernels {
            variable: VARIABLE,
            path,
            reason,
        }),
        Err(reason) => {
            crate::report::note!("convolutions will be slower: {}: {reason}", path.display());
            Ok(None)
        }
    }
}

/// The library in the cache, fetched if it is not there; `None` where there is none for this processor.
fn find() -> Result<Option<PathBuf>> {
    let fits = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let Some(package) = PACKAGES.iter().find(|p| fits && p.holds == Holds::Kernels) else {
        return Ok(None);
    };
    match discover::cached(package, Trust::Stamp)? {
        Some(path) => Ok(Some(path)),
        None => fetch::fetch(package).map(Some),
    }
}
