"""Behaviours of bareossd and bareosdir outside of a job. Run by hook_modules.rs; plain asserts, one function each."""

import types

import bareosdir
import bareossd

MODULES = (bareossd, bareosdir)
FUNCTIONS = "GetValue SetValue DebugMessage JobMessage RegisterEvents UnRegisterEvents GetInstanceCount".split()
GOOD_ARGUMENTS = {
    "GetValue": (1,),
    "SetValue": (2, "x"),
    "DebugMessage": (100, "x"),
    "JobMessage": (6, "x"),
    "RegisterEvents": ((1,),),
    "UnRegisterEvents": ((1,),),
}

# Reference 2.1, 7.2 and 7.3, word for word: the numbered names of each dictionary.
SHARED = {
    "bRCs": "bRC_OK 0 bRC_Stop 1 bRC_Error 2 bRC_More 3 bRC_Term 4 bRC_Seen 5 bRC_Core 6 bRC_Skip 7 bRC_Cancel 8",
    "bJobMessageType": """M_ABORT 1 M_DEBUG 2 M_FATAL 3 M_ERROR 4 M_WARNING 5 M_INFO 6 M_SAVED 7 M_NOTSAVED 8
        M_SKIPPED 9 M_MOUNT 10 M_ERROR_TERM 11 M_TERM 12 M_RESTORED 13 M_SECURITY 14 M_ALERT 15 M_VOLMGMT 16""",
}
TABLES = {
    bareossd: {
        **SHARED,
        "bsdVariable": """bsdVarJob 1 bsdVarLevel 2 bsdVarType 3 bsdVarJobId 4 bsdVarClient 5 bsdVarPool 6
            bsdVarPoolType 7 bsdVarStorage 8 bsdVarMediaType 9 bsdVarJobName 10 bsdVarJobStatus 11 bsdVarVolumeName 12
            bsdVarJobErrors 13 bsdVarJobFiles 14 bsdVarJobBytes 15 bsdVarPluginDir 16""",
        "bsdwVariable": "bsdwVarJobReport 1 bsdwVarVolumeName 2 bsdwVarPriority 3 bsdwVarJobLevel 4",
        "bsdEventType": """bsdEventJobStart 1 bsdEventJobEnd 2 bsdEventDeviceInit 3 bsdEventDeviceMount 4
            bsdEventVolumeLoad 5 bsdEventDeviceReserve 6 bsdEventDeviceOpen 7 bsdEventLabelRead 8
            bsdEventLabelVerified 9 bsdEventLabelWrite 10 bsdEventDeviceClose 11 bsdEventVolumeUnload 12
            bsdEventDeviceUnmount 13 bsdEventReadError 14 bsdEventWriteError 15 bsdEventDriveStatus 16
            bsdEventVolumeStatus 17 bsdEventSetupRecordTranslation 18 bsdEventReadRecordTranslation 19
            bsdEventWriteRecordTranslation 20 bsdEventDeviceRelease 21 bsdEventNewPluginOptions 22
            bsdEventChangerLock 23 bsdEventChangerUnlock 24""",
    },
    bareosdir: {
        **SHARED,
        "bDirVariable": """bDirVarJob 1 bDirVarLevel 2 bDirVarType 3 bDirVarJobId 4 bDirVarClient 5 bDirVarNumVols 6
            bDirVarPool 7 bDirVarStorage 8 bDirVarWriteStorage 9 bDirVarReadStorage 10 bDirVarCatalog 11
            bDirVarMediaType 12 bDirVarJobName 13 bDirVarJobStatus 14 bDirVarPriority 15 bDirVarVolumeName 16
            bDirVarCatalogRes 17 bDirVarJobErrors 18 bDirVarJobFiles 19 bDirVarSDJobFiles 20 bDirVarSDErrors 21
            bDirVarFDJobStatus 22 bDirVarSDJobStatus 23 bDirVarPluginDir 24 bDirVarLastRate 25 bDirVarJobBytes 26
            bDirVarReadBytes 27""",
        "bwDirVariable": "bwDirVarJobReport 1 bwDirVarVolumeName 2 bwDirVarPriority 3 bwDirVarJobLevel 4",
        "bDirEventType": """bDirEventJobStart 1 bDirEventJobEnd 2 bDirEventJobInit 3 bDirEventJobRun 4
            bDirEventVolumePurged 5 bDirEventNewVolume 6 bDirEventNeedVolume 7 bDirEventVolumeFull 8
            bDirEventRecyle 9 bDirEventGetScratch 10 bDirEventNewPluginOptions 11""",
    },
}


def table(text):
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2])))


def raises(kind, function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except kind as error:
        return str(error)
    raise AssertionError(f"{function} raised nothing")


def test_dictionaries_have_text_keys_and_each_entry_is_an_attribute():
    for module, tables in TABLES.items():
        for name, text in tables.items():
            assert type(getattr(module, name)) is dict and getattr(module, name) == table(text), (module, name)
            for key, value in table(text).items():
                assert getattr(module, key) == value, key


def test_there_are_seven_functions_and_nothing_else():
    for module, tables in TABLES.items():
        public = {name for name in dir(module) if not name.startswith("_")}
        constants = {key for text in tables.values() for key in table(text)}
        assert public - constants - set(tables) == set(FUNCTIONS), public - constants - set(tables)
        assert not any(isinstance(getattr(module, name), type) for name in public)
        assert not any(name.startswith("L_") for name in public)


def test_they_are_built_in_and_have_no_file():
    for module in MODULES:
        assert isinstance(module, types.ModuleType) and not hasattr(module, "__file__")
        assert module.__doc__ is None


def test_functions_outside_a_job_say_that_there_is_none():
    for module in MODULES:
        for name in FUNCTIONS:
            text = raises(RuntimeError, getattr(module, name), *GOOD_ARGUMENTS.get(name, ()))
            assert text.endswith(": plugin_ctx is unset"), (name, text)


def test_functions_take_no_keywords():
    for module in MODULES:
        for name in FUNCTIONS:
            text = raises(TypeError, getattr(module, name), x=1)
            assert text == f"{module.__name__}.{name}() takes no keyword arguments", text


def test_arguments_are_checked_before_the_job():
    for module in MODULES:
        assert raises(TypeError, module.GetValue) == "BareosGetValue() takes exactly 1 argument (0 given)"
        assert raises(TypeError, module.SetValue, 1) == "BareosSetValue() takes exactly 2 arguments (1 given)"
        text = raises(TypeError, module.JobMessage, 1, b"x")
        assert text == "BareosJobMessage() argument 2 must be str or None, not bytes"
        assert raises(ValueError, module.DebugMessage, 6, "a\0b") == "embedded null character"
        raises(RuntimeError, module.JobMessage, 6, None)


def test_star_import_gives_everything():
    for module in MODULES:
        namespace = {}
        exec(f"from {module.__name__} import *", namespace)
        missing = [name for name in dir(module) if not name.startswith("_") and name not in namespace]
        assert not missing, missing
