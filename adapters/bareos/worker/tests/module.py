"""Behaviours of the module bareosfd outside of a job; plain asserts, one function a behaviour.

Run by module.rs; those of a line of the conformance checklist, `item_NN_...`, by that list's tests.
"""

import time
import warnings

import bareosfd

FUNCTIONS = """GetValue SetValue DebugMessage JobMessage RegisterEvents UnRegisterEvents GetInstanceCount AddExclude
    AddInclude AddOptions AddRegex AddWild NewOptions NewInclude NewPreInclude CheckChanges AcceptFile SetSeenBitmap
    ClearSeenBitmap""".split()

GOOD_ARGUMENTS = {
    "GetValue": (1,),
    "SetValue": (8, 1),
    "DebugMessage": (100, "x"),
    "JobMessage": (6, "x"),
    "RegisterEvents": ((1,),),
    "UnRegisterEvents": ((1,),),
    "AddExclude": ("x",),
    "AddInclude": ("x",),
    "AddOptions": ("x",),
    "AddRegex": ("x", 32),
    "AddWild": ("x", 32),
    "AcceptFile": (bareosfd.SavePacket(),),
    "CheckChanges": (bareosfd.SavePacket(),),
    "SetSeenBitmap": (True,),
    "ClearSeenBitmap": (False, "x"),
}

# Reference 2.1, word for word: numbered names of each dictionary.
TABLES = {
    "bRCs": "bRC_OK 0 bRC_Stop 1 bRC_Error 2 bRC_More 3 bRC_Term 4 bRC_Seen 5 bRC_Core 6 bRC_Skip 7 bRC_Cancel 8",
    "bCFs": "CF_SKIP 1 CF_ERROR 2 CF_EXTRACT 3 CF_CREATED 4 CF_CORE 5",
    "bFileType": """FT_LNKSAVED 1 FT_REGE 2 FT_REG 3 FT_LNK 4 FT_DIREND 5 FT_SPEC 6 FT_NOACCESS 7 FT_NOFOLLOW 8
        FT_NOSTAT 9 FT_NOCHG 10 FT_DIRNOCHG 11 FT_ISARCH 12 FT_NORECURSE 13 FT_NOFSCHG 14 FT_NOOPEN 15 FT_RAW 16
        FT_FIFO 17 FT_DIRBEGIN 18 FT_INVALIDFS 19 FT_INVALIDDT 20 FT_REPARSE 21 FT_PLUGIN 22 FT_DELETED 23 FT_BASE 24
        FT_RESTORE_FIRST 25 FT_JUNCTION 26 FT_PLUGIN_CONFIG 27 FT_PLUGIN_CONFIG_FILLED 28""",
    "bIOPS": "IO_OPEN 1 IO_READ 2 IO_WRITE 3 IO_CLOSE 4 IO_SEEK 5",
    "bIOPstatus": "iostat_error -1 iostat_do_in_plugin 0 iostat_do_in_core 1",
    "bJobMessageType": """M_ABORT 1 M_DEBUG 2 M_FATAL 3 M_ERROR 4 M_WARNING 5 M_INFO 6 M_SAVED 7 M_NOTSAVED 8
        M_SKIPPED 9 M_MOUNT 10 M_ERROR_TERM 11 M_TERM 12 M_RESTORED 13 M_SECURITY 14 M_ALERT 15 M_VOLMGMT 16""",
    "bVariable": """bVarJobId 1 bVarFDName 2 bVarLevel 3 bVarType 4 bVarClient 5 bVarJobName 6 bVarJobStatus 7
        bVarSinceTime 8 bVarAccurate 9 bVarFileSeen 10 bVarVssClient 11 bVarWorkingDir 12 bVarWhere 13
        bVarRegexWhere 14 bVarExePath 15 bVarVersion 16 bVarDistName 17 bVarPrevJobName 18 bVarPrefixLinks 19
        bVarCheckChanges 20 bVarUsedConfig 21 bVarAccurateOptions 23""",
    "bAccurateOption": """bAccurateOptionInode 1 bAccurateOptionPermissions 2 bAccurateOptionNlink 4
        bAccurateOptionUid 8 bAccurateOptionGid 16 bAccurateOptionSize 32 bAccurateOptionAtime 64
        bAccurateOptionMtime 128 bAccurateOptionCtime 256 bAccurateOptionSizeDecrease 512 bAccurateOptionAlways 1024
        bAccurateOptionMD5 2048 bAccurateOptionSha1 4096""",
    "bEventType": """bEventJobStart 1 bEventJobEnd 2 bEventStartBackupJob 3 bEventEndBackupJob 4
        bEventStartRestoreJob 5 bEventEndRestoreJob 6 bEventStartVerifyJob 7 bEventEndVerifyJob 8
        bEventBackupCommand 9 bEventRestoreCommand 10 bEventEstimateCommand 11 bEventLevel 12 bEventSince 13
        bEventCancelCommand 14 bEventRestoreObject 15 bEventEndFileSet 16 bEventPluginCommand 17 bEventOptionPlugin 18
        bEventHandleBackupFile 19 bEventNewPluginOptions 20 bEventVssInitializeForBackup 21
        bEventVssInitializeForRestore 22 bEventVssSetBackupState 23 bEventVssPrepareForBackup 24
        bEventVssBackupAddComponents 25 bEventVssPrepareSnapshot 26 bEventVssCreateSnapshots 27
        bEventVssRestoreLoadComponentMetadata 28 bEventVssRestoreSetComponentsSelected 29 bEventVssCloseRestore 30
        bEventVssBackupComplete 31""",
}
LEVELS = {
    "L_FULL": "F", "L_INCREMENTAL": "I", "L_DIFFERENTIAL": "D", "L_SINCE": "S", "L_VERIFY_CATALOG": "C",
    "L_VERIFY_INIT": "V", "L_VERIFY_VOLUME_TO_CATALOG": "O", "L_VERIFY_DISK_TO_CATALOG": "d", "L_VERIFY_DATA": "A",
    "L_BASE": "B", "L_NONE": " ", "L_VIRTUAL_FULL": "f",
}  # fmt: skip

CLASSES = {
    "StatPacket": "stat_pkt",
    "SavePacket": "save_pkt",
    "RestorePacket": "restore_pkt",
    "IoPacket": "io_pkt",
    "AclPacket": "acl_pkt",
    "XattrPacket": "xattr_pkt",
    "RestoreObject": "restore_object",
}


def raises(kind, call, *arguments, **keywords):
    """The text of the exception that the call raises."""
    try:
        call(*arguments, **keywords)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} did not raise {kind.__name__}")


def table(text):
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2])))


def item_17_every_number_has_its_value():
    for text in TABLES.values():
        for name, value in table(text).items():
            assert getattr(bareosfd, name) == value and type(getattr(bareosfd, name)) is int, name


def item_17_levels_are_strings():
    for name, letter in LEVELS.items():
        assert getattr(bareosfd, name) == letter and type(getattr(bareosfd, name)) is str, name


def item_18_dictionaries_hold_the_same_under_bytes_keys():
    for name, text in TABLES.items():
        expected = {key.encode(): value for key, value in table(text).items()}
        assert getattr(bareosfd, name) == expected, name
        assert isinstance(getattr(bareosfd, name), dict), name
    assert bareosfd.bLevels == {key.encode(): value.encode() for key, value in LEVELS.items()}


def item_18_dictionaries_find_str_keys_and_iterate_over_bytes():
    assert bareosfd.bRCs["bRC_More"] == bareosfd.bRCs[b"bRC_More"] == 3
    assert "bRC_More" in bareosfd.bRCs and b"bRC_More" in bareosfd.bRCs
    assert bareosfd.bRCs.get("bRC_Stop") == bareosfd.bRCs.get(b"bRC_Stop") == 1
    assert "nothing" not in bareosfd.bRCs and 5 not in bareosfd.bRCs
    assert bareosfd.bRCs.get("nothing") is None and bareosfd.bRCs.get("nothing", 9) == 9
    assert all(type(key) is bytes for key in bareosfd.bRCs)
    assert raises(KeyError, lambda: bareosfd.bRCs["nothing"]) == "'nothing'"


def test_star_import_gives_everything():
    namespace = {}
    exec("from bareosfd import *", namespace)
    missing = [name for name in dir(bareosfd) if not name.startswith("_") and name not in namespace]
    assert not missing, missing
    assert not hasattr(bareosfd, "__all__")
    assert bareosfd.__doc__ is None, bareosfd.__doc__


def item_19_functions_outside_a_job_say_that_there_is_none():
    for name in FUNCTIONS:
        text = raises(RuntimeError, getattr(bareosfd, name), *GOOD_ARGUMENTS.get(name, ()))
        assert text.endswith(": plugin_ctx is unset"), (name, text)


def item_20_functions_take_no_keywords():
    for name in FUNCTIONS:
        assert raises(TypeError, getattr(bareosfd, name), x=1) == f"bareosfd.{name}() takes no keyword arguments"


def test_arguments_are_checked_before_the_job():
    assert raises(TypeError, bareosfd.GetValue) == "BareosGetValue() takes exactly 1 argument (0 given)"
    text = raises(TypeError, bareosfd.DebugMessage, 1, b"x")
    assert text == "BareosDebugMessage() argument 2 must be str or None, not bytes"
    assert raises(TypeError, bareosfd.GetValue, "1") == "'str' object cannot be interpreted as an integer"
    assert raises(TypeError, bareosfd.GetValue, 1.0) == "'float' object cannot be interpreted as an integer"
    assert raises(OverflowError, bareosfd.GetValue, 1 << 31) == "signed integer is greater than maximum"
    assert raises(ValueError, bareosfd.JobMessage, 6, "a\0b") == "embedded null character"
    raises(RuntimeError, bareosfd.GetValue, True)
    raises(RuntimeError, bareosfd.JobMessage, 6, None)


def test_classes_have_the_names_of_the_original():
    for exported, name in CLASSES.items():
        kind = getattr(bareosfd, exported)
        assert (kind.__name__, kind.__qualname__, kind.__module__) == (name, name, "builtins")


def item_27_unknown_attributes_are_refused_with_the_original_text():
    for exported, name in CLASSES.items():
        packet = getattr(bareosfd, exported)()
        expected = f"'{name}' object has no attribute 'foo'"
        assert raises(AttributeError, getattr, packet, "foo") == expected
        assert raises(AttributeError, setattr, packet, "foo", 1) == expected
        assert not hasattr(packet, "__dict__")


def item_27_classes_can_be_subclassed():
    class Mine(bareosfd.SavePacket):
        extra = 1

    packet = Mine(fname="x")
    packet.more = 2
    packet.fname = "y"
    assert (packet.fname, packet.extra, packet.more) == ("y", 1, 2)
    assert isinstance(packet, bareosfd.SavePacket)
    packet.link = packet.fname
    del packet


def test_packets_compare_by_identity():
    one, two = bareosfd.StatPacket(), bareosfd.StatPacket()
    assert one == one and one != two and len({one, two}) == 2


def item_25_stat_packet_defaults():
    before = int(time.time())
    stat = bareosfd.StatPacket()
    after = int(time.time())
    assert stat.st_mode == 0o100700 and stat.st_size == 2**64 - 1 and stat.st_blksize == 4096 and stat.st_blocks == 1
    for name in "dev ino nlink uid gid rdev".split():
        assert getattr(stat, "st_" + name) == 0
    for name in "atime mtime ctime".split():
        assert before <= getattr(stat, "st_" + name) <= after


def item_25_stat_packet_takes_positions_and_keywords_without_prefix():
    names = "dev ino mode nlink uid gid rdev size atime mtime ctime blksize blocks".split()
    stat = bareosfd.StatPacket(*range(1, 14))
    assert [getattr(stat, "st_" + name) for name in names] == list(range(1, 14))
    stat = bareosfd.StatPacket(**{name: number for number, name in enumerate(names)})
    assert [getattr(stat, "st_" + name) for name in names] == list(range(13))
    raises(TypeError, bareosfd.StatPacket, st_mode=1)
    raises(TypeError, bareosfd.StatPacket, *range(14))


def test_stat_packet_constructor_masks_what_is_too_large():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stat = bareosfd.StatPacket(dev=2**40 + 5, mode=2**20 + 7, ino=2**64 + 3, size=-2)
    assert (stat.st_dev, stat.st_mode, stat.st_ino, stat.st_size) == (5, 7, 3, 2**64 - 2)


def item_25_stat_packet_repr():
    stat = bareosfd.StatPacket(atime=1795300000, mtime=1795300000, ctime=1795300000)
    assert repr(stat) == (
        "StatPacket(dev=0, ino=0, mode=0700, nlink=0, uid=0, gid=0, rdev=0, size=18446744073709551615, "
        "atime=1795300000, mtime=1795300000, ctime=1795300000, blksize=4096, blocks=1)"
    )
    assert "mode=4755," in repr(bareosfd.StatPacket(mode=0o104755))


def test_wide_integers_survive():
    stat = bareosfd.StatPacket()
    for value in (0, 1, 2**63, 2**64 - 1):
        stat.st_size = stat.st_ino = stat.st_blocks = value
        assert stat.st_size == stat.st_ino == stat.st_blocks == value
    for value in (-(2**63), -1, 1795300000123456789, 2**63 - 1):
        stat.st_atime = stat.st_mtime = stat.st_ctime = value
        assert stat.st_atime == stat.st_mtime == stat.st_ctime == value


def test_unsigned_64_bit_members_refuse_what_does_not_fit():
    stat = bareosfd.StatPacket()
    assert raises(OverflowError, setattr, stat, "st_size", -1) == "can't convert negative int to unsigned"
    raises(OverflowError, setattr, stat, "st_ino", 2**64)


def test_narrow_members_cut_with_a_warning():
    stat, packet = bareosfd.StatPacket(), bareosfd.SavePacket()
    for target, name, value, expected in [
        (stat, "st_mode", 0x1FFFF, 0xFFFF),
        (stat, "st_dev", 2**32 + 5, 5),
        (packet, "type", 2**31, -(2**31)),
        (packet, "save_time", 2**32 + 1, 1),
    ]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            setattr(target, name, value)
        assert getattr(target, name) == expected, name
        assert [entry.category for entry in seen] == [RuntimeWarning], name


def item_27_integer_members_refuse_other_types():
    stat = bareosfd.StatPacket()
    for value, kind in ((1.5, "float"), ("1", "str"), (None, "NoneType")):
        text = raises(TypeError, setattr, stat, "st_mtime", value)
        assert kind in text, text
        raises(TypeError, setattr, stat, "st_mode", value)
        raises(TypeError, setattr, bareosfd.IoPacket(), "status", value)
    stat.st_nlink = True
    assert stat.st_nlink == 1


def item_27_bool_members_are_strict():
    packet = bareosfd.SavePacket()
    for name in ("no_read", "portable", "accurate_found"):
        assert getattr(packet, name) is False
        setattr(packet, name, True)
        assert getattr(packet, name) is True
        for value in (1, 0, None, "x"):
            assert raises(TypeError, setattr, packet, name, value) == "attribute value type must be bool"
    assert raises(TypeError, setattr, bareosfd.IoPacket(), "win32", 1) == "attribute value type must be bool"


READ_ONLY = [
    ("SavePacket", "cmd"),
    ("RestorePacket", "attrEX"), ("RestorePacket", "ofname"), ("RestorePacket", "olname"), ("RestorePacket", "where"),
    ("RestorePacket", "regexwhere"), ("RestorePacket", "original_file_name"), ("RestorePacket", "original_link_name"),
    ("IoPacket", "fname"), ("AclPacket", "fname"), ("XattrPacket", "fname"), ("RestoreObject", "plugin_name"),
]  # fmt: skip


def item_27_string_members_are_read_only():
    for kind, name in READ_ONLY:
        packet = getattr(bareosfd, kind)()
        assert getattr(packet, name) is None
        assert raises(TypeError, setattr, packet, name, "x") == "readonly attribute", (kind, name)
        assert raises(TypeError, delattr, packet, name) == "can't delete numeric/char attribute", (kind, name)


def test_deletion_is_for_object_members():
    packet = bareosfd.SavePacket(fname="x")
    del packet.fname
    assert packet.fname is None
    del packet.fname
    assert raises(TypeError, delattr, packet, "type") == "can't delete numeric/char attribute"
    assert raises(TypeError, delattr, packet, "no_read") == "can't delete numeric/char attribute"


def test_save_packet_constructor():
    packet = bareosfd.SavePacket()
    for name in "fname link statp flags cmd object_name object".split():
        assert getattr(packet, name) is None, name
    for name in "type save_time delta_seq object_len object_index".split():
        assert getattr(packet, name) == 0, name
    stat = bareosfd.StatPacket()
    packet = bareosfd.SavePacket(
        "f", "l", 3, bytearray(5), True, False, True, "c", 4, 5, "n", bytearray(b"o"), 6, 7
    )
    assert (packet.fname, packet.link, packet.type, packet.flags) == ("f", "l", 3, bytearray(5))
    assert (packet.no_read, packet.portable, packet.accurate_found, packet.cmd) == (True, False, True, "c")
    assert (packet.save_time, packet.delta_seq, packet.object_name) == (4, 5, "n")
    assert (packet.object, packet.object_len, packet.object_index) == (bytearray(b"o"), 6, 7)
    assert bareosfd.SavePacket(statp=stat).statp is stat
    raises(OverflowError, bareosfd.SavePacket, type=2**31)
    raises(TypeError, bareosfd.SavePacket, "f", fname="g")
    raises(TypeError, bareosfd.SavePacket, nothing=1)


def test_every_field_is_a_keyword():
    for name in CLASSES:
        kind = getattr(bareosfd, name)
        for field in (field for field in dir(kind) if not field.startswith("__")):
            value = getattr(kind(), field)
            keyword = field.removeprefix("st_")
            packet = kind(**{keyword: 1 if isinstance(value, int) else "x"})
            assert getattr(packet, field) in (1, True, "x"), (name, field)


def test_constructors_own_what_they_were_given():
    packets = [bareosfd.SavePacket(fname="".join(["na", "me", str(number)])) for number in range(1000)]
    assert [packet.fname for packet in packets] == [f"name{number}" for number in range(1000)]
    packets = [bareosfd.AclPacket(content=bytearray(b"x" * 100)) for _ in range(1000)]
    assert all(packet.content == b"x" * 100 for packet in packets)


def item_26_save_packet_repr():
    text = 'SavePacket(fname="", link="", type=0, flags={}, no_read=0, portable=0, accurate_found=0, cmd="{}", '
    text += 'save_time=0, delta_seq=0, object_name="", object="", object_len=0, object_index=0)'
    assert repr(bareosfd.SavePacket()) == text.format("<NULL>", "(null)")
    assert repr(bareosfd.SavePacket(flags=bytearray(4))) == text.format("Unknown", "(null)")
    bits = ["0"] * 34
    for bit in (14, 15, 27, 33):
        bits[bit] = "1"
    flags = bytearray(b"\x00\xc0\x00\x08\x02")
    assert repr(bareosfd.SavePacket(flags=flags, cmd="p:x")) == text.format("".join(bits), "p:x")


def item_26_restore_packet_repr():
    text = (
        'RestorePacket(stream=1, data_stream=2, type=3, file_index=1, linkFI=0, uid=0, statp="{}", attrEx="", '
        'ofname="/x/f", olname="", where="/x", RegexWhere="(null)", replace=97, create_status=2, '
        'original_file_name="/f", original_link_name="")'
    )
    stat = bareosfd.StatPacket()
    packet = bareosfd.RestorePacket(
        1, 2, 3, 1, 0, 0, stat, attrEX="", ofname="/x/f", olname="", where="/x", replace=97, create_status=2,
        original_file_name="/f", original_link_name="",
    )  # fmt: skip
    assert repr(packet) == text.format(repr(stat))
    del packet.statp
    assert repr(packet) == text.format("<NULL>")


def item_26_io_packet_repr():
    text = (
        'IoPacket(func=1, count=0, flags=0, mode=0000, buf="{}", fname="/x", status=0, io_errno=0, lerror=0, '
        "whence=0, offset=0, win32=0, filedes=-1)"
    )
    assert repr(bareosfd.IoPacket(1, fname="/x")) == text.format("")
    assert repr(bareosfd.IoPacket(1, fname="/x", buf=bytearray(b"ab\0c"))) == text.format("ab")
    assert repr(bareosfd.IoPacket(1, fname="/x", buf=b"ab")) == text.format("")
    assert repr(bareosfd.IoPacket(1, fname="/x", buf=bytearray(b"\xff"))) == text.format("\ufffd")


def item_26_attribute_and_object_packet_reprs():
    packet = bareosfd.AclPacket(fname="/x", content=bytearray(b"acl"))
    assert repr(packet) == 'AclPacket(fname="/x", content="acl")'
    packet = bareosfd.XattrPacket(fname="/x", name=bytearray(b"n"), value=bytearray(b"v"))
    assert repr(packet) == 'XattrPacket(fname="/x", name="n", value="v")'
    packet = bareosfd.RestoreObject(
        object_name="n", object=bytearray(b"data"), plugin_name="p:", object_type=25, object_len=12,
        object_full_len=12, object_index=98, jobid=7,
    )  # fmt: skip
    assert repr(packet) == (
        'RestoreObject(object_name="n", object="data", plugin_name="p:", object_type=25, object_len=12, '
        "object_full_len=12, object_index=98, object_compression=0, stream=0, jobid=7)"
    )


def test_restore_packet_has_no_delta_seq():
    assert not hasattr(bareosfd.RestorePacket(), "delta_seq")


def test_packets_hold_and_release_their_objects():
    import sys

    marker = bytearray(b"marker")
    before = sys.getrefcount(marker)
    packets = [bareosfd.IoPacket(buf=marker) for _ in range(10)]
    assert sys.getrefcount(marker) == before + 10
    for packet in packets:
        packet.buf = None
    del packet, packets
    assert sys.getrefcount(marker) == before


def test_texts_with_surrogates_are_readable():
    assert bareosfd.IoPacket(fname="/\udcff").fname == "/\udcff"
