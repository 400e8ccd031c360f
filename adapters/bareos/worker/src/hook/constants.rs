//! The constants of `bareossd` (reference 7.2) and `bareosdir` (7.3), by the dictionaries in which they are also found.

use backstay_bareos_protocol::hooks::Daemon;

use crate::constants::NUMBERS;

/// Integer constants: name and value of each.
pub(crate) type Members = [(&'static str, i32)];

/// What the daemons do differently, in numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// The read variable that a set volume name is seen in.
    pub(crate) volume_name: i32,
    /// NewPluginOptions: the one event that is registered from the start.
    pub(crate) new_plugin_options: u8,
    /// The last event that RegisterEvents takes.
    pub(crate) last_event: u8,
    dictionaries: &'static [(&'static str, &'static Members)],
}

/// Numbers of SetValue: both daemons have the same four, in a space apart from those that GetValue reads.
pub(crate) mod write {
    pub(crate) const JOB_REPORT: i32 = 1;
    pub(crate) const VOLUME_NAME: i32 = 2;
    pub(crate) const PRIORITY: i32 = 3;
    pub(crate) const JOB_LEVEL: i32 = 4;
}

pub(crate) fn numbers(daemon: Daemon) -> &'static Numbers {
    match daemon {
        Daemon::Storage => &STORAGE,
        Daemon::Director => &DIRECTOR,
    }
}

impl Numbers {
    /// All dictionaries of the module: two are those of `bareosfd` too.
    pub(crate) fn dictionaries(&self) -> impl Iterator<Item = (&'static str, &'static Members)> {
        let shared = NUMBERS.iter().filter(|(name, _)| matches!(*name, "bRCs" | "bJobMessageType"));
        shared.copied().chain(self.dictionaries.iter().copied())
    }
}

static STORAGE: Numbers = Numbers {
    volume_name: 12,
    new_plugin_options: 22,
    last_event: 24,
    dictionaries: &[
        (
            "bsdVariable",
            &[
                ("bsdVarJob", 1),
                ("bsdVarLevel", 2),
                ("bsdVarType", 3),
                ("bsdVarJobId", 4),
                ("bsdVarClient", 5),
                ("bsdVarPool", 6),
                ("bsdVarPoolType", 7),
                ("bsdVarStorage", 8),
                ("bsdVarMediaType", 9),
                ("bsdVarJobName", 10),
                ("bsdVarJobStatus", 11),
                ("bsdVarVolumeName", 12),
                ("bsdVarJobErrors", 13),
                ("bsdVarJobFiles", 14),
                ("bsdVarJobBytes", 15),
                ("bsdVarPluginDir", 16),
            ],
        ),
        (
            "bsdwVariable",
            &[
                ("bsdwVarJobReport", write::JOB_REPORT),
                ("bsdwVarVolumeName", write::VOLUME_NAME),
                ("bsdwVarPriority", write::PRIORITY),
                ("bsdwVarJobLevel", write::JOB_LEVEL),
            ],
        ),
        (
            "bsdEventType",
            &[
                ("bsdEventJobStart", 1),
                ("bsdEventJobEnd", 2),
                ("bsdEventDeviceInit", 3),
                ("bsdEventDeviceMount", 4),
                ("bsdEventVolumeLoad", 5),
                ("bsdEventDeviceReserve", 6),
                ("bsdEventDeviceOpen", 7),
                ("bsdEventLabelRead", 8),
                ("bsdEventLabelVerified", 9),
                ("bsdEventLabelWrite", 10),
                ("bsdEventDeviceClose", 11),
                ("bsdEventVolumeUnload", 12),
                ("bsdEventDeviceUnmount", 13),
                ("bsdEventReadError", 14),
                ("bsdEventWriteError", 15),
                ("bsdEventDriveStatus", 16),
                ("bsdEventVolumeStatus", 17),
                ("bsdEventSetupRecordTranslation", 18),
                ("bsdEventReadRecordTranslation", 19),
                ("bsdEventWriteRecordTranslation", 20),
                ("bsdEventDeviceRelease", 21),
                ("bsdEventNewPluginOptions", 22),
                ("bsdEventChangerLock", 23),
                ("bsdEventChangerUnlock", 24),
            ],
        ),
    ],
};

static DIRECTOR: Numbers = Numbers {
    volume_name: 16,
    new_plugin_options: 11,
    last_event: 10,
    dictionaries: &[
        (
            "bDirVariable",
            &[
                ("bDirVarJob", 1),
                ("bDirVarLevel", 2),
                ("bDirVarType", 3),
                ("bDirVarJobId", 4),
                ("bDirVarClient", 5),
                ("bDirVarNumVols", 6),
                ("bDirVarPool", 7),
                ("bDirVarStorage", 8),
                ("bDirVarWriteStorage", 9),
                ("bDirVarReadStorage", 10),
                ("bDirVarCatalog", 11),
                ("bDirVarMediaType", 12),
                ("bDirVarJobName", 13),
                ("bDirVarJobStatus", 14),
                ("bDirVarPriority", 15),
                ("bDirVarVolumeName", 16),
                ("bDirVarCatalogRes", 17),
                ("bDirVarJobErrors", 18),
                ("bDirVarJobFiles", 19),
                ("bDirVarSDJobFiles", 20),
                ("bDirVarSDErrors", 21),
                ("bDirVarFDJobStatus", 22),
                ("bDirVarSDJobStatus", 23),
                ("bDirVarPluginDir", 24),
                ("bDirVarLastRate", 25),
                ("bDirVarJobBytes", 26),
                ("bDirVarReadBytes", 27),
            ],
        ),
        (
            "bwDirVariable",
            &[
                ("bwDirVarJobReport", write::JOB_REPORT),
                ("bwDirVarVolumeName", write::VOLUME_NAME),
                ("bwDirVarPriority", write::PRIORITY),
                ("bwDirVarJobLevel", write::JOB_LEVEL),
            ],
        ),
        (
            "bDirEventType",
            &[
                ("bDirEventJobStart", 1),
                ("bDirEventJobEnd", 2),
                ("bDirEventJobInit", 3),
                ("bDirEventJobRun", 4),
                ("bDirEventVolumePurged", 5),
                ("bDirEventNewVolume", 6),
                ("bDirEventNeedVolume", 7),
                ("bDirEventVolumeFull", 8),
                ("bDirEventRecyle", 9),
                ("bDirEventGetScratch", 10),
                ("bDirEventNewPluginOptions", 11),
            ],
        ),
    ],
};
