# SPDX-License-Identifier: MIT OR Apache-2.0
"""How the base class reads options: definition text, options files, transformations, mandatory options."""

from base64 import b85encode

from fake_setup import PluginCase

import bareosfd
import BareosFdPluginBaseclass as base


class DefinitionText(PluginCase):
    def parse(self, text, multi=None):
        return base.parse_plugindef_string(text, multi)

    def test_a_trailing_colon_and_no_options_at_all_are_fine(self):
        self.assertEqual(self.parse("a=1:b=2:"), {"a": "1", "b": "2"})
        self.assertEqual(self.parse(""), {})
        self.assertEqual(bareosfd.messages, [])

    def test_a_backslash_keeps_the_colon_in_the_value(self):
        self.assertEqual(self.parse(r"a=x\:y:"), {"a": "x:y"})
        self.assertEqual(self.parse(r"uri=ldap\://host\:389:b=2:"), {"uri": "ldap://host:389", "b": "2"})

    def test_of_two_backslashes_one_stays(self):
        self.assertEqual(self.parse("a=x\\\\:y:"), {"a": "x\\:y"})

    def test_a_backslash_at_the_very_end_stays(self):
        self.assertEqual(self.parse("a=x\\"), {"a": "x\\"})

    def test_blanks_around_key_and_value_go(self):
        self.assertEqual(self.parse(" option1 = value1 :"), {"option1": "value1"})

    def test_the_value_may_hold_equal_signs(self):
        self.assertEqual(self.parse("dumpoptions=--where=a=1:"), {"dumpoptions": "--where=a=1"})

    def test_the_first_value_of_a_key_wins(self):
        self.assertEqual(self.parse("a=1:a=2:"), {"a": "1"})

    def test_a_multi_value_option_collects_in_order(self):
        self.assertEqual(self.parse("a=1:b=x:a=2:", ["a"]), {"a": ["1", "2"], "b": "x"})
        self.assertEqual(self.parse("a=1:", ["a"]), {"a": ["1"]})

    def test_an_empty_key_is_ignored_in_silence(self):
        self.assertEqual(self.parse("mycnf=my.cnf::dumpbinary=/b:=x:"), {"mycnf": "my.cnf", "dumpbinary": "/b"})
        self.assertEqual(bareosfd.messages, [])

    def test_an_empty_value_is_ignored_with_a_warning(self):
        self.assertEqual(self.parse("a=:b=2:flag:"), {"b": "2"})
        self.assertEqual(
            [text.rstrip("\n") for text in self.told(bareosfd.M_WARNING)],
            ["ignoring option 'a' with no value!", "ignoring option 'flag' with no value!"],
        )


class OptionsFile(PluginCase):
    def parse(self, text, multi=None):
        path = self.folder / "options"
        path.write_text(text)
        return base.parse_options_file(str(path), multi)

    def test_comments_sections_and_blank_lines_are_skipped(self):
        text = "# comment\n; comment = 1\n[section]\n\n  a = 1  \nb=two words\n"
        self.assertEqual(self.parse(text), {"a": "1", "b": "two words"})
        self.assertEqual(bareosfd.messages, [])

    def test_a_colon_is_an_ordinary_character(self):
        self.assertEqual(self.parse("uri = ldap://host\n"), {"uri": "ldap://host"})

    def test_a_backslash_continues_on_the_next_line(self):
        self.assertEqual(self.parse("a = one,\\\n    two,\\\n three\nb = 4\n"), {"a": "one,two,three", "b": "4"})

    def test_the_last_value_wins_with_a_warning(self):
        self.assertEqual(self.parse("a=1\na=2\n"), {"a": "2"})
        self.assertEqual(
            self.told(bareosfd.M_WARNING), ["duplicate option 'a' overriding previous value!\n"]
        )

    def test_a_multi_value_option_collects_without_a_warning(self):
        self.assertEqual(self.parse("a=1\na=2\n", ["a"]), {"a": ["1", "2"]})
        self.assertEqual(bareosfd.messages, [])

    def test_a_line_without_key_or_value_is_fatal_and_empties_the_result(self):
        for line in ("word", "= 1", "a ="):
            bareosfd.reset()
            self.assertEqual(self.parse(f"good = 1\n{line}\n"), {})
            self.assertEqual(
                self.told(bareosfd.M_FATAL), [f"error parsing '{line}' (found no key or value)!\n"]
            )


class ParsePluginDefinition(PluginCase):
    def plugin(self, mandatory=None):
        bareosfd.variables[bareosfd.bVarUsedConfig] = f"{self.folder}/*/*.conf"
        return base.BareosFdPluginBaseclass("", mandatory)

    def test_it_may_be_called_again_and_the_first_value_stays(self):
        plugin = self.plugin()
        self.assertEqual(plugin.parse_plugin_definition("a=9:b=2:a=1:"), bareosfd.bRC_OK)
        self.assertEqual(plugin.parse_plugin_definition("a=1:c=3:"), bareosfd.bRC_OK)
        self.assertEqual(plugin.options, {"a": "9", "b": "2", "c": "3"})

    def test_options_set_before_the_constructor_are_kept(self):
        class Early(base.BareosFdPluginBaseclass):
            def __init__(self, plugindef):
                self.options = {"a": "mine"}
                super().__init__(plugindef)

        plugin = Early("")
        plugin.parse_plugin_definition("a=1:b=2:")
        self.assertEqual(plugin.options, {"a": "mine", "b": "2"})

    def test_defaults_yield_to_the_definition_which_yields_to_overrides(self):
        (self.folder / "defaults").write_text("a = default\nb = default\nc = default\n")
        (self.folder / "overrides").write_text("c = override\n")
        plugin = self.plugin()
        text = f"b=given:c=given:defaults_file=defaults:overrides_file={self.folder}/overrides:"
        self.assertEqual(plugin.parse_plugin_definition(text), bareosfd.bRC_OK)
        self.assertEqual(plugin.options, {"a": "default", "b": "given", "c": "override"})

    def test_an_options_file_is_never_a_multi_value_option(self):
        (self.folder / "defaults").write_text("a = 1\n")
        plugin = self.plugin()
        plugin.parse_plugin_definition("defaults_file=defaults:", ["defaults_file", "a"])
        self.assertEqual(plugin.options, {"a": ["1"]})

    def test_a_missing_options_file_is_fatal_and_names_the_file(self):
        plugin = self.plugin()
        self.assertIs(plugin.parse_plugin_definition("defaults_file=nowhere:"), False)
        (text,) = self.told(bareosfd.M_FATAL)
        self.assertTrue(text.startswith("While loading options file 'nowhere': "), text)
        self.assertIn("No such file", text)

    def test_an_enc_value_is_decoded_and_stored_under_the_plain_name(self):
        secret = b85encode("p\u00e4ss:wort".encode()).decode()
        (self.folder / "defaults").write_text(f"password#enc = {secret}\n")
        plugin = self.plugin(["password"])
        self.assertEqual(plugin.parse_plugin_definition("defaults_file=defaults:"), bareosfd.bRC_OK)
        self.assertEqual(plugin.options, {"password": "p\u00e4ss:wort"})

    def test_values_of_a_multi_value_option_are_decoded_one_by_one(self):
        words = [b85encode(word).decode() for word in (b"one", b"two")]
        (self.folder / "defaults").write_text("".join(f"w#enc = {word}\n" for word in words))
        plugin = self.plugin()
        plugin.parse_plugin_definition("defaults_file=defaults:", ["w#enc"])
        self.assertEqual(plugin.options, {"w": ["one", "two"]})

    def test_an_unknown_or_failing_transformation_is_fatal(self):
        for text, start in (
            ("a#rot13=x:", "Transformation rot13 of value 'x' for key a failed: "),
            ("a#enc=~~~~~~:", "Transformation enc of value '~~~~~~' for key a failed: "),
        ):
            bareosfd.reset()
            self.assertIs(self.plugin().parse_plugin_definition(text), False)
            (message,) = self.told(bareosfd.M_FATAL)
            self.assertTrue(message.startswith(start), message)

    def test_the_first_missing_mandatory_option_is_named(self):
        plugin = self.plugin(["a", "b", "c"])
        self.assertEqual(plugin.parse_plugin_definition("a=1:"), bareosfd.bRC_Error)
        self.assertEqual(self.told(bareosfd.M_FATAL), ["Mandatory option 'b' not defined.\n"])

    def test_the_answer_of_an_overridden_check_is_handed_on_unchanged(self):
        class Checker(base.BareosFdPluginBaseclass):
            def check_options(self, mandatory_options=None):
                return True

        self.assertIs(Checker("").parse_plugin_definition("a=1:"), True)

    def test_a_plugin_that_skipped_the_constructor_is_warned_when_it_names_a_file(self):
        class Skipper(base.BareosFdPluginBaseclass):
            def __init__(self):
                self.mandatory_options = None

        bareosfd.variables[bareosfd.bVarUsedConfig] = f"{self.folder}/*/*.conf"
        (self.folder / "defaults").write_text("a = 1\n")
        plugin = Skipper()
        plugin.parse_plugin_definition("defaults_file=defaults:")
        self.assertEqual(plugin.options, {"a": "1"})
        self.assertEqual(
            self.told(bareosfd.M_WARNING), ["Plugin did not call BareosFdPluginBaseclass.__init__()\n"]
        )


class ConfigPath(PluginCase):
    def path_for(self, used_config):
        bareosfd.variables[bareosfd.bVarUsedConfig] = used_config
        return base.get_config_path()

    def test_it_is_the_folder_of_a_pattern_or_of_a_file_and_else_the_root(self):
        file = self.folder / "bareos-fd.conf"
        file.write_text("")
        self.assertEqual(self.path_for(f"{self.folder}/*/*.conf"), f"{self.folder}/")
        self.assertEqual(self.path_for(str(file)), str(self.folder))
        self.assertEqual(self.path_for("/nonexistent/*/*.conf"), "/")
        self.assertEqual(self.path_for(""), "/")
        self.assertEqual(self.path_for(None), "/")
