# SPDX-License-Identifier: MIT OR Apache-2.0
"""Base classes and wrappers of storage-daemon and director plugins."""

import unittest
from unittest import mock

import fake_setup  # noqa: F401 (puts the modules on the path)

import bareosdir
import BareosDirPluginBaseclass
import BareosDirWrapper
import bareossd
import BareosSdPluginBaseclass
import BareosSdWrapper


class ListenerCase(unittest.TestCase):
    def setUp(self):
        bareossd.reset()
        bareosdir.reset()

    def at(self, module, seconds):
        return mock.patch.object(module.time, "time", lambda: seconds)


class StorageDaemon(ListenerCase):
    def plugin(self):
        return BareosSdPluginBaseclass.BareosSdPluginBaseclass("a=1:")

    def test_the_constructor_registers_two_events_and_knows_the_job(self):
        plugin = self.plugin()
        self.assertEqual(bareossd.registered, {1, 2})
        self.assertEqual((plugin.jobName, plugin.jobLevel, plugin.jobId), ("backup.2026-11-22_01.02.03_04", "F", 7))
        self.assertIn("jobId=7", str(plugin))

    def test_options_are_new_at_each_call_and_the_last_value_counts(self):
        plugin = self.plugin()
        self.assertEqual(plugin.parse_plugin_definition("a=1:flag:a=2:b=x=y::"), bareossd.bRC_OK)
        self.assertEqual(plugin.options, {"a": "2", "b": "x=y"})
        plugin.parse_plugin_definition("c=3:")
        self.assertEqual(plugin.options, {"c": "3"})

    def test_the_end_of_the_job_brings_its_figures(self):
        plugin = self.plugin()
        with self.at(BareosSdPluginBaseclass, 10.0):
            self.assertEqual(plugin.handle_plugin_event(bareossd.bsdEventJobStart), bareossd.bRC_OK)
        with self.at(BareosSdPluginBaseclass, 12.0):
            self.assertEqual(plugin.handle_plugin_event(bareossd.bsdEventJobEnd), bareossd.bRC_OK)
        self.assertEqual((plugin.jobStartTime, plugin.jobEndTime, plugin.jobRunningTime), (10.0, 12.0, 2.0))
        self.assertEqual((plugin.jobBytes, plugin.jobFiles, plugin.throughput), (4096, 3, 2048.0))

    def test_a_job_that_took_no_time_has_no_throughput(self):
        plugin = self.plugin()
        with self.at(BareosSdPluginBaseclass, 10.0):
            plugin.handle_plugin_event(bareossd.bsdEventJobStart)
            plugin.handle_plugin_event(bareossd.bsdEventJobEnd)
        self.assertEqual(plugin.throughput, 0)


class Director(ListenerCase):
    def plugin(self):
        return BareosDirPluginBaseclass.BareosDirPluginBaseclass("a=1:")

    def test_the_constructor_registers_four_events_and_knows_the_job(self):
        plugin = self.plugin()
        self.assertEqual(bareosdir.registered, {1, 2, 3, 4})
        self.assertEqual((plugin.jobName, plugin.jobLevel, plugin.jobId), ("backup.2026-11-22_01.02.03_04", "I", 7))
        self.assertEqual((plugin.jobType, plugin.jobClient, plugin.Priority), (ord("B"), "client-fd", 10))
        self.assertEqual(plugin.jobStatus, ord("C"))
        self.assertIn("client=client-fd", str(plugin))

    def test_the_end_of_the_job_brings_its_figures(self):
        plugin = self.plugin()
        for seconds, event in ((10.0, bareosdir.bDirEventJobStart), (11.0, bareosdir.bDirEventJobInit)):
            with self.at(BareosDirPluginBaseclass, seconds):
                self.assertEqual(plugin.handle_plugin_event(event), bareosdir.bRC_OK)
        self.assertEqual(plugin.jobStatus, "C")
        with self.at(BareosDirPluginBaseclass, 13.0):
            plugin.handle_plugin_event(bareosdir.bDirEventJobRun)
        bareosdir.variables[bareosdir.bDirVarJobStatus] = ord("T")
        bareosdir.variables[bareosdir.bDirVarLevel] = ord("F")
        with self.at(BareosDirPluginBaseclass, 17.0):
            self.assertEqual(plugin.handle_plugin_event(bareosdir.bDirEventJobEnd), bareosdir.bRC_OK)
        self.assertEqual((plugin.jobLevel, plugin.jobStatus), ("F", "T"))
        self.assertEqual((plugin.jobStartTime, plugin.jobInitTime, plugin.jobRunTime), (10.0, 11.0, 13.0))
        self.assertEqual((plugin.jobEndTime, plugin.jobTotalTime, plugin.jobRunningTime), (17.0, 6.0, 4.0))
        self.assertEqual((plugin.jobErrors, plugin.jobBytes, plugin.jobFiles, plugin.jobNumVols), (1, 4096, 3, 1))
        self.assertEqual((plugin.jobPool, plugin.jobStorage, plugin.jobMediaType), ("Full", "File", "File"))
        self.assertEqual(plugin.throughput, 1024.0)

    def test_a_job_that_ended_before_it_ran_has_no_running_time(self):
        plugin = self.plugin()
        self.assertEqual(plugin.handle_plugin_event(bareosdir.bDirEventJobEnd), bareosdir.bRC_OK)
        self.assertEqual((plugin.jobTotalTime, plugin.jobRunningTime, plugin.throughput), (0, 0, 0))


class Wrappers(unittest.TestCase):
    def test_the_object_that_a_script_stores_answers(self):
        class Object:
            def parse_plugin_definition(self, plugindef):
                return ("parsed", plugindef)

            def handle_plugin_event(self, event):
                return ("heard", event)

        for wrapper, name in (
            (BareosSdWrapper, "bareos_sd_plugin_object"),
            (BareosDirWrapper, "bareos_dir_plugin_object"),
        ):
            self.assertIsNone(getattr(wrapper, name))
            self.assertRaises(AttributeError, wrapper.handle_plugin_event, 1)
            with mock.patch.object(wrapper, name, Object()):
                self.assertEqual(wrapper.parse_plugin_definition("a=1:"), ("parsed", "a=1:"))
                self.assertEqual(wrapper.handle_plugin_event(2), ("heard", 2))

    def test_star_imports_give_what_scripts_use(self):
        for text, names in (
            ("from BareosSdWrapper import *", ["parse_plugin_definition", "handle_plugin_event"]),
            ("from BareosDirWrapper import *", ["parse_plugin_definition", "handle_plugin_event"]),
            ("from BareosSdPluginBaseclass import *", ["BareosSdPluginBaseclass", "bareossd", "time"]),
            ("from BareosDirPluginBaseclass import *", ["BareosDirPluginBaseclass", "bareosdir", "time"]),
        ):
            namespace = {}
            exec(text, namespace)
            for name in names:
                self.assertIn(name, namespace, text)


if __name__ == "__main__":
    unittest.main()
