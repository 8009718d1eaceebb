//! Host functions: what compiled programs call on the CPU instead of code of their own.
//!
//! A call has a body, the same computation as a graph, so that the evaluator, other devices and plugins without the interface
//! for such calls compute it too. [`register`] offers the functions to the programs of a plugin.

mod all_weights;
mod blocked_sums;
mod column_sums;
mod decay;
mod examples;
mod max_pool;
mod onednn;
mod parallel_for;
mod sparse;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::plugins::{self, Holds, PACKAGES, Trust};
use crate::threads;
use models::layers::examples as dense;
use models::layers::sparse as layers;
use pjrt::Plugin;
use pjrt::ffi::Handler;

/// Environment variable with the path of a oneDNN library, or `off`.
const VARIABLE: &str = "RIGL_XLA_ONEDNN";

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of [`register`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of the plugin, or too few threads.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// oneDNN could not be fetched.
    #[error(transparent)]
    Plugins(#[from] plugins::Error),
    /// The environment variable names a file that is not oneDNN.
    #[error("{variable}={path}: not oneDNN 3: {reason}; expected the path of its shared library, or off", path = path.display())]
    NotOneDnn {
        /// Name of the variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// The system loader's message, or the version found.
        reason: String,
    },
}

impl Error {
    /// Whether the user made the error.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Plugins(error) => error.is_usage(),
            Error::Pjrt(_) | Error::NotOneDnn { .. } => false,
        }
    }
}

/// Every host function by the name that programs call.
const FUNCTIONS: [(&str, Handler); 17] = [
    (lowering::DIRECT_CONVOLUTION, onednn::convolution),
    (lowering::PACK_KERNEL, onednn::pack_kernel),
    (lowering::COLUMN_SUMS, column_sums::column_sums),
    (lowering::MAX_POOL, max_pool::forward),
    (lowering::MAX_POOL_GRADIENT, max_pool::gradient),
    (layers::BLOCKED_MOMENTS, blocked_sums::moments),
    (layers::BLOCKED_PRODUCTS, blocked_sums::products),
    (layers::MASK_KEY, sparse::mask_key),
    (layers::SPARSE_FORWARD, sparse::forward),
    (layers::SPARSE_INPUT_GRADIENT, sparse::input_gradient),
    (layers::SPARSE_KERNEL_GRADIENT, sparse::kernel_gradient),
    (layers::EXPAND, sparse::expand),
    (layers::CONDENSE, sparse::condense),
    (layers::ALL_WEIGHTS_GRADIENT, all_weights::gradient),
    (crate::optimizer::DECAY_STEPS, decay::steps),
    (dense::TAKE_EXAMPLES, examples::take_examples),
    (dense::UNIT_SUMS, examples::unit_sums),
];

/// Registers all host functions with a plugin, once, and loads oneDNN, which is fetched if it is not in the cache. Returns the
/// version and path of oneDNN.
///
/// Returns `None` if programs must not call host functions: the user turned them off, the plugin has no interface for them, or
/// oneDNN is not available, which is reported.
///
/// # Errors
/// [`Error::NotOneDnn`] if the file that the user named is not oneDNN, and failures of the plugin.
pub fn register(plugin: Plugin) -> Result<Option<String>> {
    static REGISTERED: Mutex<BTreeMap<PathBuf, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(onednn) = registered.get(plugin.path()) {
        return Ok(onednn.clone());
    }
    let onednn = register_new(plugin)?;
    registered.insert(plugin.path().to_owned(), onednn.clone());
    Ok(onednn)
}

fn register_new(plugin: Plugin) -> Result<Option<String>> {
    let named = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    if named.as_deref() == Some("off") {
        return Ok(None);
    }
    for (name, function) in FUNCTIONS {
        // SAFETY: the handlers of this module take the call frames that XLA passes.
        if !unsafe { plugin.register_host_function(name, function)? } {
            return Ok(None);
        }
    }
    let path = match &named {
        Some(path) => PathBuf::from(path),
        None => match find_onednn() {
            Ok(Some(path)) => path,
            Ok(None) => return Ok(None),
            Err(error) => {
                crate::report::note!("convolutions will be slower: {error}");
                return Ok(None);
            }
        },
    };
    // Each thread of the plugin that calls a convolution has as many helpers as there are cores.
    pjrt::require_threads("oneDNN", threads::cores().pow(2))?;
    match onednn::load(&path) {
        Ok(version) => Ok(Some(format!("{version} ({})", path.display()))),
        Err(reason) if named.is_some() => Err(Error::NotOneDnn {
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

/// Path of oneDNN in the cache; fetches it if it is not there. `None` if there is no package for this processor.
fn find_onednn() -> plugins::Result<Option<PathBuf>> {
    let supported = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let Some(package) = PACKAGES.iter().find(|p| supported && p.holds == Holds::HostFunctions) else {
        return Ok(None);
    };
    match plugins::cached(package, Trust::Stamp)? {
        Some(path) => Ok(Some(path)),
        None => plugins::fetch(package).map(Some),
    }
}
