//! Reading trees: what restic, rustic and older versions of both write, with keys missing, `null` or unknown.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use backstay_core::{FileKind, Time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{NO_TIME, Node, Tree};
use crate::gotext::{parse_time, to_json, unquote};

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not a tree: {0}")]
pub struct TreeError(#[from] serde_json::Error);

pub(super) fn tree(json: &[u8]) -> Result<Tree, TreeError> {
    Ok(serde_json::from_slice(json)?)
}

/// A string that borrows from the blob where it can; `null` is empty.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed("")))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A value, or its default for `null`.
fn or_default<'de, T: Deserialize<'de> + Default, A: MapAccess<'de>>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

fn time<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Time, A::Error> {
    let Text(text) = map.next_value()?;
    if text.is_empty() {
        return Ok(NO_TIME);
    }
    parse_time(&text).ok_or_else(|| A::Error::custom(format_args!("\"{text}\" is not a time")))
}

fn bytes<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<u8>, A::Error> {
    let Text(text) = map.next_value()?;
    STANDARD.decode(text.as_bytes()).map_err(|error| A::Error::custom(format_args!("not base64: {error}")))
}

fn kind<E: serde::de::Error>(name: &str) -> Result<FileKind, E> {
    Ok(match name {
        "file" => FileKind::File,
        "dir" => FileKind::Directory,
        "symlink" => FileKind::Symlink,
        "dev" => FileKind::BlockDevice,
        "chardev" => FileKind::CharDevice,
        "fifo" => FileKind::Fifo,
        "socket" => FileKind::Socket,
        other => return Err(E::custom(format_args!("invalid type \"{other}\""))),
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut node = Node { content: None, ..Node::new(FileKind::File) };
                let mut known_kind = false;
                let mut raw_target = None;
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "name" => {
                            let Text(text) = map.next_value()?;
                            node.name = unquote(&text).map_err(|name| {
                                A::Error::custom(format_args!("the name \"{name}\" is not quoted as names are"))
                            })?;
                        }
                        "type" => {
                            let Text(text) = map.next_value()?;
                            node.kind = kind(&text)?;
                            known_kind = true;
                        }
                        "mode" => node.mode = or_default(&mut map)?,
                        "mtime" => node.mtime = time(&mut map)?,
                        "atime" => node.atime = time(&mut map)?,
                        "ctime" => node.ctime = time(&mut map)?,
                        "uid" => node.uid = or_default(&mut map)?,
                        "gid" => node.gid = or_default(&mut map)?,
                        "user" => node.user = map.next_value::<Text<'_>>()?.0.into_owned(),
                        "group" => node.group = map.next_value::<Text<'_>>()?.0.into_owned(),
                        "inode" => node.inode = or_default(&mut map)?,
                        "device_id" => node.device_id = or_default(&mut map)?,
                        "size" => node.size = or_default(&mut map)?,
                        "links" => node.links = or_default(&mut map)?,
                        "linktarget" => node.link_target = map.next_value::<Text<'_>>()?.0.into_owned().into_bytes(),
                        "linktarget_raw" => raw_target = Some(bytes(&mut map)?),
                        "extended_attributes" => {
                            let list: Vec<Xattr> = or_default(&mut map)?;
                            node.xattrs = list.into_iter().map(|Xattr(name, value)| (name, value)).collect();
                        }
                        "generic_attributes" => node.generic_attributes = generic(&mut map)?,
                        "device" => node.device = or_default(&mut map)?,
                        "content" => node.content = map.next_value()?,
                        "subtree" => node.subtree = map.next_value()?,
                        "error" => node.error = map.next_value::<Text<'_>>()?.0.into_owned(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                if !known_kind {
                    return Err(A::Error::custom("a node without a type"));
                }
                if let Some(target) = raw_target.filter(|target| !target.is_empty()) {
                    node.link_target = target;
                }
                Ok(node)
            }
        }
        deserializer.deserialize_map(NodeVisitor)
    }
}

struct Xattr(Vec<u8>, Vec<u8>);

impl<'de> Deserialize<'de> for Xattr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct XattrVisitor;
        impl<'de> Visitor<'de> for XattrVisitor {
            type Value = Xattr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an extended attribute")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Xattr, A::Error> {
                let mut xattr = Xattr(Vec::new(), Vec::new());
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "name" => xattr.0 = map.next_value::<Text<'_>>()?.0.into_owned().into_bytes(),
                        "value" => xattr.1 = bytes(&mut map)?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(xattr)
            }
        }
        deserializer.deserialize_map(XattrVisitor)
    }
}

/// Attributes of other systems, their values kept as text without the spaces in it.
fn generic<'de, A: MapAccess<'de>>(map: &mut A) -> Result<BTreeMap<String, String>, A::Error> {
    let raw: BTreeMap<String, Box<RawValue>> = or_default(map)?;
    let compact = |value: &RawValue| -> Result<String, serde_json::Error> {
        // Numbers and key order stay as they are where the text is compact already, as restic writes it.
        if !value.get().contains(|c: char| c.is_ascii_whitespace() || "<>&\u{2028}\u{2029}".contains(c)) {
            return Ok(value.get().to_owned());
        }
        let value: serde_json::Value = serde_json::from_str(value.get())?;
        Ok(String::from_utf8_lossy(&to_json(&value)?).into_owned())
    };
    raw.into_iter()
        .map(|(name, value)| Ok((name, compact(&value)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(A::Error::custom)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;
        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tree")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut tree = Tree::default();
                while let Some(Text(key)) = map.next_key()? {
                    if key == "nodes" {
                        tree.nodes = or_default(&mut map)?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(tree)
            }
        }
        deserializer.deserialize_map(TreeVisitor)
    }
}
