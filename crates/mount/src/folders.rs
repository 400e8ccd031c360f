//! Decoded folders of snapshots, the ones used last: a listing, and the look-ups and attributes that follow it, decode a
//! tree once.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use backstay_core::Id;
use backstay_repository::error::Error;
use backstay_repository::reader::Reader;
use backstay_repository::tree::Node;
use parking_lot::Mutex;

/// About how many bytes of decoded folders are kept. The one that is asked for is always kept, however large.
const LIMIT: usize = 64 << 20;

/// The nodes of one folder, by name.
#[derive(Debug)]
pub struct Nodes {
    /// Sorted by name, no name twice, each of them one that a file can have.
    pub nodes: Vec<Node>,
}

impl Nodes {
    fn new(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| is_name(&node.name));
        // Other programs have been seen to write unsorted trees.
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|later, first| later.name == first.name);
        Self { nodes }
    }

    /// The place of a name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let at = self.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()?;
        u32::try_from(at).ok()
    }

    /// About how many bytes of memory it takes.
    fn cost(&self) -> usize {
        let one = |node: &Node| {
            let content = node.content.as_ref().map_or(0, Vec::len) * size_of::<Id>();
            let xattrs: usize = node.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
            size_of::<Node>() + node.name.len() + node.link_target.len() + content + xattrs
        };
        self.nodes.iter().map(one).sum::<usize>() + 256
    }
}

/// Whether a file can be called so.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<Id, (Arc<Nodes>, u64, usize)>,
    by_use: BTreeMap<u64, Id>,
    bytes: usize,
    clock: u64,
}

/// The folders used last.
#[derive(Debug, Default)]
pub struct Folders {
    kept: Mutex<Kept>,
}

impl Folders {
    /// The nodes of a tree.
    ///
    /// # Errors
    /// As [`Reader::tree_once`].
    pub fn get(&self, reader: &Reader, tree: &Id) -> Result<Arc<Nodes>, Error> {
        if let Some(found) = self.kept.lock().touch(tree) {
            return Ok(found);
        }
        // Two who want the same folder at once both read it: rare, and neither waits for a third.
        let nodes = Arc::new(Nodes::new(reader.tree_once(tree)?.nodes));
        self.kept.lock().put(*tree, &nodes, LIMIT);
        Ok(nodes)
    }
}

impl Kept {
    fn touch(&mut self, tree: &Id) -> Option<Arc<Nodes>> {
        let (nodes, used, _) = self.by_id.get_mut(tree)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, *tree);
        Some(Arc::clone(nodes))
    }

    fn put(&mut self, tree: Id, nodes: &Arc<Nodes>, limit: usize) {
        if self.by_id.contains_key(&tree) {
            return;
        }
        let cost = nodes.cost();
        while self.bytes + cost > limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((_, _, freed)) = self.by_id.remove(&oldest) {
                self.bytes -= freed;
            }
        }
        self.clock += 1;
        self.bytes += cost;
        self.by_id.insert(tree, (Arc::clone(nodes), self.clock, cost));
        self.by_use.insert(self.clock, tree);
    }
}

#[cfg(test)]
mod tests {
    use backstay_core::FileKind;

    use super::*;

    fn named(name: &[u8]) -> Node {
        Node { name: name.to_vec(), ..Node::new(FileKind::Fifo) }
    }

    #[test]
    fn names_that_no_file_has_are_left_out_and_the_others_sorted() {
        let nodes = Nodes::new([&b"b"[..], b"..", b"a/b", b"", b"a", b"\xff", b"b", b".", b"x\0"].map(named).to_vec());
        let names: Vec<&[u8]> = nodes.nodes.iter().map(|node| node.name.as_slice()).collect();
        assert_eq!(names, [&b"a"[..], b"b", b"\xff"]);
        assert_eq!(nodes.find(b"b"), Some(1));
        assert_eq!(nodes.find(b"c"), None);
    }

    #[test]
    fn what_was_used_last_is_kept_within_the_limit() {
        let nodes = |name: &[u8]| Arc::new(Nodes::new(vec![named(name)]));
        let cost = nodes(b"x").cost();
        let mut kept = Kept::default();
        let id = |number: u8| Id([number; 32]);
        for number in 0..3 {
            kept.put(id(number), &nodes(b"x"), 2 * cost);
            assert!(kept.touch(&id(0)).is_some(), "{number}");
        }
        assert!(kept.touch(&id(1)).is_none());
        assert!(kept.touch(&id(2)).is_some());
        let large = Arc::new(Nodes::new((0..100_u8).map(|number| named(&[number + 1])).collect()));
        kept.put(id(9), &large, 2 * cost);
        assert!(kept.touch(&id(9)).is_some(), "the one asked for is kept, however large");
        assert_eq!(kept.by_id.len(), 1);
    }
}
