//! The constants of the module `nbdkit` (reference 4.1).

/// Name and value of each.
pub const ALL: &[(&str, i32)] = &[
    ("THREAD_MODEL_SERIALIZE_CONNECTIONS", 0),
    ("THREAD_MODEL_SERIALIZE_ALL_REQUESTS", 1),
    ("THREAD_MODEL_SERIALIZE_REQUESTS", 2),
    ("THREAD_MODEL_PARALLEL", 3),
    ("FLAG_MAY_TRIM", FLAG_MAY_TRIM),
    ("FLAG_FUA", FLAG_FUA),
    ("FLAG_REQ_ONE", FLAG_REQ_ONE),
    ("FLAG_FAST_ZERO", FLAG_FAST_ZERO),
    ("FUA_NONE", 0),
    ("FUA_EMULATE", 1),
    ("FUA_NATIVE", 2),
    ("CACHE_NONE", 0),
    ("CACHE_EMULATE", 1),
    ("CACHE_NATIVE", 2),
    ("EXTENT_HOLE", EXTENT_HOLE),
    ("EXTENT_ZERO", EXTENT_ZERO),
];

/// The zeroed range may become a hole.
pub const FLAG_MAY_TRIM: i32 = 1;
/// On stable storage when it returns.
pub const FLAG_FUA: i32 = 2;
/// One extent is enough.
pub const FLAG_REQ_ONE: i32 = 4;
/// Fail at once when it is not faster than writing.
pub const FLAG_FAST_ZERO: i32 = 8;
/// Nothing is stored.
pub const EXTENT_HOLE: i32 = 1;
/// Reads as zeroes.
pub const EXTENT_ZERO: i32 = 2;
