//! Where the local copies of indexes are: the option, else the environment, else the user's cache folder.

use std::sync::Arc;

use backstay_repository::IndexCache;

use crate::args::GlobalOptions;
use crate::output::Output;

/// The cache, unless it was declined or there is no place for one. Trouble with it is told to whoever asked for more
/// words, once.
#[must_use]
pub fn index_cache(options: &GlobalOptions, output: &Arc<Output>) -> Option<IndexCache> {
    if options.no_cache {
        return None;
    }
    let Some(folder) = options.cache_dir.clone().or_else(IndexCache::usual_folder) else {
        output.verbose(1, "the index is not cached: neither BACKSTAY_CACHE_DIR, XDG_CACHE_HOME nor HOME is set");
        return None;
    };
    let output = Arc::clone(output);
    let told = std::sync::Once::new();
    Some(IndexCache::new(folder).telling(move |text| told.call_once(|| output.verbose(1, text))))
}
