//! Texts of groups: what is looked into, what is left whole, what is in doubt.

use super::group::Group;
use super::label::Label;
use super::*;

const SECTOR: u64 = 512;
const EXTENT: u64 = 8192 * SECTOR;

/// A group of two physical volumes of 15 extents with these volumes and these lines of its own.
fn text(own: &str, volumes: &str) -> String {
    let physical = |name: &str, id: &str| {
        format!(
            "{name} {{ id = \"{id}\" status = [\"ALLOCATABLE\"] flags = [] dev_size = 131072 pe_start = 2048 pe_count = 15 }}"
        )
    };
    format!(
        "contents = \"Text Format Volume Group\" version = 1\nvg0 {{ id = \"group\" seqno = 3 format = \"lvm2\" {own} extent_size = 8192 \
         physical_volumes {{ {} {} }} logical_volumes {{ {volumes} }} }}",
        physical("pv0", "a-a"),
        physical("pv1", "b-b")
    )
}

fn volume(name: &str, status: &str, segments: &str) -> String {
    let count = segments.matches("type =").count();
    format!("{name} {{ id = \"{name}\" status = [{status}] segment_count = {count} {segments} }}\n")
}

fn linear(name: &str, pv: &str, extent: u64, count: u64) -> String {
    let segment = format!(
        "segment1 {{ start_extent = 0 extent_count = {count} type = \"striped\" stripe_count = 1 stripes = [\"{pv}\", {extent}] }}"
    );
    volume(name, "\"READ\", \"WRITE\", \"VISIBLE\"", &segment)
}

fn read(own: &str, volumes: &str) -> Result<Group, Doubt> {
    Group::read(text(own, volumes).as_bytes())
}

/// The names of volumes that are looked into.
fn plain(group: &Group) -> Vec<&str> {
    group.logical.iter().filter(|volume| volume.whole.is_none()).map(|volume| volume.name.as_str()).collect()
}

#[test]
fn linear_and_striped_volumes_are_looked_into() {
    let striped = "segment1 { start_extent = 0 extent_count = 6 type = \"striped\" stripe_count = 2 stripe_size = 32 \
                   stripes = [\"pv0\", 5, \"pv1\", 0] }";
    let volumes = linear("root", "pv0", 0, 5) + &volume("data", "\"VISIBLE\"", striped);
    let group = read("status = [\"RESIZEABLE\"]", &volumes).unwrap();
    assert_eq!(plain(&group), ["root", "data"]);
    let start = 2048 * SECTOR;
    let piece = &group.logical[1].pieces[0];
    assert_eq!((piece.start, piece.length, piece.stripe), (0, 6 * EXTENT, 32 * SECTOR));
    assert_eq!(piece.legs, [("aa".to_owned(), start + 5 * EXTENT), ("bb".to_owned(), start)]);
    assert_eq!(group.physical["aa"].extents, start..start + 15 * EXTENT);
}

#[test]
fn what_is_a_part_of_another_or_not_plain_is_left_whole() {
    let cases = [
        // A snapshot: neither the origin nor the store may be looked into.
        linear("root", "pv0", 0, 5)
            + &linear("cow", "pv0", 5, 2)
            + &volume(
                "snapshot0",
                "\"READ\"",
                "segment1 { start_extent = 0 extent_count = 5 type = \"snapshot\" chunk_size = 8 origin = \"root\" cow_store = \"cow\" }",
            ),
        linear("tdata", "pv0", 0, 5)
            + &linear("tmeta", "pv1", 0, 1)
            + &volume(
                "pool",
                "\"VISIBLE\"",
                "segment1 { start_extent = 0 extent_count = 5 type = \"thin-pool\" metadata = \"tmeta\" pool = \"tdata\" }",
            )
            + &volume(
                "thin",
                "\"VISIBLE\"",
                "segment1 { start_extent = 0 extent_count = 50 type = \"thin\" thin_pool = \"pool\" }",
            ),
        linear("r_rimage_0", "pv0", 0, 5)
            + &linear("r_rimage_1", "pv1", 0, 5)
            + &volume(
                "r",
                "\"VISIBLE\"",
                "segment1 { start_extent = 0 extent_count = 5 type = \"raid1\" raids = [\"r_rimage_0\", \"r_rimage_1\"] }",
            ),
        // Not visible: a part of something, whatever it is.
        linear("hidden", "pv0", 0, 5).replace(", \"VISIBLE\"", ""),
        // A volume on a volume.
        linear("below", "pv0", 0, 5)
            + &volume(
                "above",
                "\"VISIBLE\"",
                "segment1 { start_extent = 0 extent_count = 5 type = \"striped\" stripe_count = 1 stripes = [\"below\", 0] }",
            ),
    ];
    for volumes in cases {
        let group = read("", &volumes).unwrap();
        assert_eq!(plain(&group), [""; 0], "{volumes}");
        assert!(group.logical.iter().any(|volume| !volume.pieces.is_empty()));
    }
}

#[test]
fn groups_that_do_not_fit_together_are_in_doubt() {
    let mirror =
        "segment1 { start_extent = 0 extent_count = 5 type = \"mirror\" mirrors = [\"pv0\", 0, \"pv1\", 0] }";
    let segment = |line: &str| volume("v", "\"VISIBLE\"", &format!("segment1 {{ {line} }}"));
    let usual =
        "start_extent = 0 extent_count = 5 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 0]";
    assert!(read("", &segment(usual)).is_ok());
    let cases = [
        ("status = [\"EXPORTED\"]", String::new(), "exported"),
        ("status = [\"CLUSTERED\"]", String::new(), "shared"),
        ("lock_type = \"sanlock\"", String::new(), "shared"),
        ("", volume("pvmove0", "\"READ\"", mirror), "extents of type \"mirror\""),
        ("", linear("a", "pv0", 0, 5) + &linear("b", "pv0", 4, 2), "to two volumes"),
        ("", linear("a", "pv0", 11, 5), "outside"),
        ("", segment(&usual.replace("start_extent = 0", "start_extent = 1")), "gap"),
        ("", segment(&usual.replace("stripe_count = 1", "stripe_count = 2")), "number of stripes"),
        ("", segment(&usual.replace(", 0]", ", -1]")), "impossible stripes"),
        (
            "",
            segment(&usual.replace("extent_count = 5", "extent_count = 9223372036854775807")),
            "impossible size",
        ),
        ("", segment(usual).replace("segment_count = 1", "segment_count = 2"), "counts other segments"),
        ("format = \"lvm1\"", String::new(), "unknown format"),
    ];
    for (own, volumes, words) in cases {
        let text = match own.starts_with("format") {
            true => text("", &volumes).replace("format = \"lvm2\"", own),
            false => text(own, &volumes),
        };
        let doubt = Group::read(text.as_bytes()).unwrap_err();
        assert!(doubt.reason.contains(words), "{text}: {doubt}");
    }
    let missing = text("", "").replace("flags = []", "flags = [\"MISSING\"]");
    assert!(Group::read(missing.as_bytes()).unwrap_err().reason.contains("lacks a disk"));
}

fn member(uuid: &str, texts: &[&str]) -> Member {
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let groups = texts.iter().map(|text| Group::read(text).unwrap()).collect();
    Member { label: Label { uuid: uuid.to_owned(), data: 1 << 20, texts }, groups, size: 64 << 20 }
}

#[test]
fn members_find_their_group_or_are_in_doubt() {
    let now = text("", &linear("root", "pv0", 0, 5));
    let old = text("", "").replace("seqno = 3", "seqno = 2");
    let doubts = |members: &[Member]| -> Vec<usize> {
        let (groups, doubts) = assemble(members);
        let homes: usize = groups.iter().map(|found| found.members.len()).sum();
        assert_eq!(homes + doubts.len(), members.len());
        doubts.into_iter().map(|(index, _)| index).collect()
    };
    assert_eq!(doubts(&[member("aa", &[&now, &now]), member("bb", &[])]), [0; 0]);
    assert_eq!(doubts(&[member("aa", &[&now])]), [0; 0], "the other disk is not here");
    assert_eq!(doubts(&[member("bb", &[])]), [0], "no text");
    assert_eq!(doubts(&[member("aa", &[&now, &old])]), [0], "two texts");
    assert_eq!(doubts(&[member("aa", &[&now]), member("bb", &[&old])]), [0, 1], "a stale disk");
    assert_eq!(doubts(&[member("aa", &[&now]), member("aa", &[&now])]), [0, 1], "twins");
    assert_eq!(doubts(&[member("cc", &[&now])]), [0], "a stranger");
    let mut small = member("aa", &[&now]);
    small.size = 60 << 20;
    assert_eq!(doubts(&[small]), [0], "too small");
}
