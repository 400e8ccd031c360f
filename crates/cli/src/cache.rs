//! Where the local copies of indexes are: the option, else the environment, else the user's cache folder.

use std::path::PathBuf;
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
    let Some(folder) = options.cache_dir.clone().or_else(usual_folder) else {
        output.verbose(1, "the index is not cached: neither BACKSTAY_CACHE_DIR, XDG_CACHE_HOME nor HOME is set");
        return None;
    };
    let output = Arc::clone(output);
    let told = std::sync::Once::new();
    Some(IndexCache::new(folder).telling(move |text| told.call_once(|| output.verbose(1, text))))
}

fn usual_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The standard of base directories: a path that is not absolute counts as none.
    let standard = || variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    variable("BACKSTAY_CACHE_DIR").or_else(|| {
        let base = standard().or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
        Some(base.join("backstay"))
    })
}
