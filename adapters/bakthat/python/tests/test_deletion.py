# SPDX-License-Identifier: MIT OR Apache-2.0
"""Delete, ageing and rotation: lines 22 to 27 of the conformance checklist."""

import datetime
import unittest
from unittest import mock

from case import Case


def clock(text, year=2014):
    return datetime.datetime.strptime(f"{year}-{text}", "%Y-%m-%d %H:%M")


def texts(dates):
    return [f"{date:%m-%d}" if date.hour == 1 else f"{date:%m-%d %H:%M}" for date in sorted(dates)]


class Delete(Case):
    def test_22_delete_takes_the_newest_and_then_the_next(self):
        self.file("f")
        records = [self.bakthat.backup("f", password="") for _ in range(3)]
        self.assertEqual(self.bakthat.delete("f").id, records[2].id)
        row = self.row(records[2].stored_filename)
        self.assertTrue(row.is_deleted)
        self.assertGreaterEqual(row.last_updated, records[2].backup_date)
        self.assertNotIn(records[2].stored_filename, self.objects())
        self.assertEqual(self.bakthat.delete("f", "s3").id, records[1].id)
        self.lines.records.clear()
        self.bakthat.delete("f")
        self.assertEqual(self.texts(), [f"Deleting {records[0].stored_filename}"])
        self.assertIsNone(self.bakthat.delete("f"))
        self.assertIsNone(self.bakthat.delete(""))
        self.assertEqual(self.texts(level=40), ["No file matched.", "No file to delete, use -f to specify one."])
        with self.assertRaisesRegex(KeyError, "nowhere"):
            self.bakthat.delete("f", "nowhere")

    def test_23_intervals(self):
        seconds = self.bakthat._interval_string_to_seconds
        table = {"1s": 1, "1m": 60, "1h": 3600, "1D": 86400, "1W": 604800, "1M": 2592000, "1Y": 31536000}
        for text, value in {**table, "3M2D10h": 7984800, "10h2D3M": 7984800, "007s": 7, "1s1s": 2}.items():
            self.assertEqual(seconds(text), value, text)
        for text in ("1x", "1M x", "-1D", "1.5h", "0s", "1M0D", "5", "d", "1D1", "1s ", "", "1M2"):
            with self.assertRaises(Exception) as caught:
                seconds(text)
            self.assertEqual(str(caught.exception), f"Bad interval format for {text}")
        self.add_row("f", "2020-01-01T00:00:00")
        for interval in ("", None, "1x", "0D"):
            with self.assertRaises(Exception):
                self.bakthat.delete_older_than("f", interval)
        self.assertEqual(len(self.objects()), 1)
        self.assertEqual(self.bakthat.Backups.search("f").count(), 1)

    def test_24_ageing_is_strict_and_keeps_to_the_named_set(self):
        now = datetime.datetime(2024, 5, 1)
        at_limit = self.add_row("f", now - datetime.timedelta(days=1))
        older = self.add_row("f", now - datetime.timedelta(days=1, seconds=1))
        for name in ("f2", "my_f", "f.old"):
            self.add_row(name, "2020-01-01T00:00:00")
        named = self.add_row("helper", "2020-01-02T00:00:00", stored_filename="f.20200102000000.tgz.enc")
        fired = []
        self.bakthat.events.before_delete_older_than += lambda *given: fired.append(given)
        self.bakthat.events.on_delete_older_than += lambda *given: fired.append(given)
        with mock.patch.object(self.bakthat, "utc_clock", return_value=now):
            deleted = self.bakthat.delete_older_than("f", "1D")
        self.assertEqual({record.id for record in deleted}, {older.id, named.id})
        self.assertEqual([len(given) for given in fired], [1, 2])
        self.assertIs(fired[1][1], deleted)
        self.assertFalse(self.row(at_limit.stored_filename).is_deleted)
        self.assertTrue([line for line in self.texts() if line.startswith("3 backups of other names contain f")])
        self.assertEqual(self.bakthat.delete_older_than("", "1s"), [])
        self.assertEqual(len(self.objects()), 4)
        wide = self.bakthat.delete_older_than("f", "1s", conf=self.s3(wide_match=True))
        self.assertEqual(len(wide), 4)

    def test_24_a_failing_delete_ends_the_ageing(self):
        for day in (1, 2):
            self.add_row("f", f"2020-01-0{day}T00:00:00")
        with mock.patch.object(self.bakthat.S3Backend, "delete", side_effect=OSError("refused")):
            with self.assertRaisesRegex(OSError, "refused"):
                self.bakthat.delete_older_than("f", "1D")
        self.assertEqual(self.bakthat.Backups.search("f").count(), 2)


class Rules(Case):
    """The decision alone: dates in, dates out."""

    def kept(self, dates, now, **settings):
        from bakthat.rotation import reasons_to_keep, settings_of

        return texts(reasons_to_keep(dates, now, settings_of(settings)))

    def setUp(self):
        super().setUp()
        self.bakthat
        self.now = clock("02-12 10:00")
        self.daily = [clock("02-12 01:00") - datetime.timedelta(days=days) for days in range(60)]

    def test_25_example_a(self):
        kept = self.kept(self.daily, self.now, days=3, weeks=2, months=2, first_week_day=5)
        self.assertEqual(kept, ["01-01", "02-01", "02-08", "02-10", "02-11", "02-12"])

    def test_25_example_b(self):
        dates = [
            clock(f"02-{day} {hour:02}:00") for day, hours in ((12, (1, 5, 9)), (11, (1, 5, 23))) for hour in hours
        ]
        self.assertEqual(self.kept(dates, self.now, days=2), ["02-11", "02-12"])

    def test_25_example_c(self):
        dates = [clock(f"{month:02}-{day} 04:00", 2013) for month in range(8, 13) for day in ("03", "20")]
        dates += [clock("01-10 04:00"), clock("01-14 04:00")]
        kept = self.kept(dates, clock("01-15 00:00"), months=4)
        self.assertEqual(kept, ["10-03 04:00", "11-03 04:00", "12-03 04:00", "01-10 04:00"])

    def test_25_example_d(self):
        dates = [clock(f"02-12 {time}") for time in ("08:10", "08:50", "09:30", "12:00")]
        self.assertEqual(self.kept(dates, self.now, hours=2), ["02-12 09:30", "02-12 12:00"])

    def test_25_example_e(self):
        self.assertEqual(self.kept(self.daily, self.now, weeks=2, first_week_day=0), ["02-03", "02-10"])

    def test_25_weeks_begin_on_every_day(self):
        starts = {0: "01-27", 1: "01-28", 2: "01-29", 3: "01-23", 4: "01-24", 5: "01-25", 6: "01-26"}
        for day, first in starts.items():
            self.assertEqual(self.kept(self.daily, self.now, weeks=3, first_week_day=day)[0], first, day)
        self.assertEqual(self.kept(self.daily, self.now, weeks=3)[0], starts[5])

    def test_25_months_and_years_step_by_the_calendar(self):
        now = clock("01-15 00:00")
        monthly = [datetime.datetime(year, month, 1, 1) for year in (2011, 2012, 2013, 2014) for month in range(1, 13)]
        past = [date for date in monthly if date <= now]
        first = lambda **settings: min(self.dates(past, now, **settings))  # noqa: E731
        self.assertEqual(first(months=2), datetime.datetime(2013, 12, 1, 1))
        self.assertEqual(first(months=14), datetime.datetime(2012, 12, 1, 1))
        self.assertEqual(first(years=3), datetime.datetime(2012, 1, 1, 1))
        self.assertEqual(len(self.dates(past, now, years=3)), 3)
        self.assertEqual(len(self.dates(past, now, months=10**6)), len(past))
        self.assertEqual(len(self.dates(past, now, days=10**9)), len(past))

    def dates(self, dates, now, **settings):
        from bakthat.rotation import reasons_to_keep, settings_of

        return sorted(reasons_to_keep(dates, now, settings_of(settings)))

    def test_25_leap_day_and_the_small_units(self):
        now = datetime.datetime(2024, 3, 1, 0, 0, 30)
        dates = [now - datetime.timedelta(seconds=seconds) for seconds in range(0, 200, 10)]
        self.assertEqual(min(self.dates(dates, now, seconds=21)), now - datetime.timedelta(seconds=20))
        self.assertEqual(
            self.dates(dates, now, minutes=2),
            [datetime.datetime(2024, 2, 29, 23, 59), datetime.datetime(2024, 3, 1)],
        )
        leap = [datetime.datetime(2024, 2, 29, 1), datetime.datetime(2024, 2, 28, 1), datetime.datetime(2024, 2, 29, 2)]
        self.assertEqual(self.dates(leap, now, days=2), [datetime.datetime(2024, 2, 29, 1)])

    def test_25_what_lies_after_now_stays_and_zero_keeps_nothing_else(self):
        later = self.now + datetime.timedelta(seconds=1)
        self.assertEqual(self.dates([*self.daily, self.now, later], self.now, days=0), [later])

    def test_25_settings(self):
        self.assertEqual(self.kept(self.daily, self.now, days="3", first_week_day="5"), ["02-10", "02-11", "02-12"])
        with self.assertRaises(TypeError):
            self.kept(self.daily, self.now, fortnights=1)
        for wrong in ({"days": -1}, {"days": "many"}, {"first_week_day": 7, "days": 1}):
            with self.assertRaises(ValueError):
                self.kept(self.daily, self.now, **wrong)


class Rotation(Case):
    def rotate(self, now, name="f", **settings):
        with mock.patch.object(self.bakthat, "utc_clock", return_value=now):
            return self.bakthat.rotate_backups(name, conf=self.s3(rotation=settings))

    def left(self):
        backups = self.bakthat.Backups
        rows = backups.select().where(backups.is_deleted == False)  # noqa: E712
        self.assertEqual(sorted(row.stored_filename for row in rows), self.objects())
        return sorted(datetime.datetime.fromtimestamp(row.backup_date) for row in rows)

    def test_25_a_rotation_deletes_what_is_not_kept_once(self):
        now = clock("02-12 10:00")
        for days in range(20):
            self.add_row("f", clock("02-12 01:00") - datetime.timedelta(days=days))
        fired = []
        self.bakthat.events.before_rotate_backups += lambda *given: fired.append(given)
        self.bakthat.events.on_rotate_backups += lambda *given: fired.append(given)
        deleted = self.rotate(now, days=3, weeks=2, first_week_day=5)
        self.assertEqual(texts(self.left()), ["02-01", "02-08", "02-10", "02-11", "02-12"])
        self.assertEqual(len(deleted), 15)
        self.assertIs(fired[1][1], deleted)
        self.assertEqual(fired[0][0], fired[1][0])
        self.assertEqual(self.rotate(now, days=3, weeks=2, first_week_day=5), [])
        self.assertEqual(fired[3][1], [])

    def test_25_no_settings_name_the_command_that_makes_them(self):
        with self.assertRaisesRegex(Exception, "configure_backups_rotation"):
            self.bakthat.rotate_backups("f")
        self.assertEqual(self.bakthat.RotationConfig(self.s3(rotation={"days": 1})).conf, {"days": 1})
        self.assertEqual(self.bakthat.RotationConfig(self.s3()).conf, {})

    def test_25_a_dry_run_says_what_would_go_and_why(self):
        for day in (10, 11, 12):
            self.add_row("f", clock(f"02-{day} 01:00"))
        fired = []
        self.bakthat.events.before_rotate_backups += lambda *given: fired.append(given)
        self.lines.records.clear()
        with mock.patch.object(self.bakthat, "utc_clock", return_value=clock("02-12 10:00")):
            told = self.bakthat.rotate_backups("f", conf=self.s3(rotation={"days": 2}), dry_run=True)
        self.assertEqual([record.stored_filename for record in told], ["f.20140210010000.tgz"])
        self.assertEqual(len(self.left()), 3)
        self.assertEqual(fired, [])
        self.assertRegex(self.texts()[0], "f.20140210010000.tgz\tdelete: outside")
        self.assertRegex(self.texts()[1], "f.20140211010000.tgz\tkeep: oldest of its day")

    def test_26_names_that_contain_the_name_are_not_touched(self):
        now = clock("02-12 10:00")
        for name in ("site", "site_old", "mysite", "site.d"):
            for hour in (1, 2):
                self.add_row(name, clock(f"02-12 0{hour}:00"))
        helper = self.add_row("helper", clock("02-12 03:00"), stored_filename="site.20140212030000.tgz")
        deleted = self.rotate(now, "site", days=1)
        self.assertEqual({r.stored_filename for r in deleted}, {"site.20140212020000.tgz", helper.stored_filename})
        self.assertEqual(len(self.left()), 7)
        self.assertTrue([line for line in self.texts() if line.startswith("6 backups of other names contain site")])
        self.assertEqual(self.rotate(now, "", days=1), [])
        self.assertEqual(len(self.left()), 7)
        self.assertEqual(self.rotate(now, "site.20140212010000.tgz", days=1), [])
        with mock.patch.object(self.bakthat, "utc_clock", return_value=now):
            self.bakthat.rotate_backups("site", conf=self.s3(rotation={"days": 1}, wide_match=True))
        self.assertEqual(len(self.left()), 6)

    def test_27_one_failing_delete_does_not_stop_the_rotation(self):
        for day in (1, 2, 3):
            self.add_row("f", clock(f"01-0{day} 01:00"))
        delete = self.bakthat.S3Backend.delete

        def failing(backend, keyname):
            if "20140102" in keyname:
                raise OSError("refused")
            delete(backend, keyname)

        with mock.patch.object(self.bakthat.S3Backend, "delete", failing):
            deleted = self.rotate(clock("02-12 10:00"), days=1)
        self.assertEqual(len(deleted), 2)
        self.assertEqual(texts(self.left()), ["01-02"])
        self.assertEqual(self.texts(level=40), ["Error when deleting <Backup: f.20140102010000.tgz>"])


if __name__ == "__main__":
    unittest.main()
