use std::time::{Duration, UNIX_EPOCH};

use super::*;

const UUID: &str = "4c4c4544-0042-4410-8053-b7c04f334432";

fn moment(text: &str, hour: u8) -> Moment {
    Moment { date: Date::parse(text).unwrap(), hour }
}

fn sample() -> Mark {
    Mark::new(
        &"0123456789abcdef".repeat(2),
        "fedcba9876543210",
        &UUID.to_uppercase(),
        moment("2026-2-28", 14),
    )
}

fn gpt_head(sector: u32) -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    crate::table::tests::small_gpt(&mut disk, sector.try_into().unwrap());
    disk.truncate(1 << 20);
    disk
}

#[test]
fn golden_bytes() {
    let text = "# GRUB Environment Block\n\
        gantry_mark=1\n\
        gantry_session=0123456789abcdef0123456789abcdef\n\
        gantry_job=fedcba9876543210\n\
        gantry_uuid=4c4c4544-0042-4410-8053-b7c04f334432\n\
        gantry_day1=2026-2-28\n\
        gantry_day2=2026-3-1\n\
        gantry_hour=14\n";
    let block = sample().encode();
    assert_eq!(&block[..text.len()], text.as_bytes());
    assert!(block[text.len()..].iter().all(|&byte| byte == b'#'));
    assert_eq!(Mark::decode(&block), Some(sample()));
}

#[test]
fn grub_editenv_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block");
    std::fs::write(&path, sample().encode()).unwrap();
    let list = crate::testing::good("grub-editenv", &[&path.display().to_string(), "list"]);
    assert!(list.contains(&format!("gantry_uuid={UUID}\n")) && list.contains("gantry_hour=14"), "{list}");
}

#[test]
fn it_lives_a_day_on_its_own_machine_only() {
    let mark = sample();
    let table = [
        ("2026-2-28", 14, true),
        ("2026-2-28", 23, true),
        ("2026-3-1", 13, true),
        ("2026-3-1", 14, false),
        ("2026-3-2", 0, false),
        ("2026-2-27", 14, false),
        ("2027-2-28", 14, false),
    ];
    for (date, hour, live) in table {
        assert_eq!(mark.is_live(UUID, moment(date, hour)), live, "{date} {hour}");
        assert!(!mark.is_live("4c4c4544-0042-4410-8053-b7c04f334433", moment(date, hour)));
        assert!(!mark.is_live("", moment(date, hour)));
    }
    // Just after midnight: nothing is left for the second day, but a day is still nearly a day.
    let midnight = Mark::new("", "", UUID, Moment::of(UNIX_EPOCH + Duration::from_secs(86400 * 365)));
    assert!(midnight.is_live(UUID, moment("1971-1-1", 23)) && !midnight.is_live(UUID, moment("1971-1-2", 0)));
}

#[test]
fn it_is_placed_read_replaced_and_cleared() {
    for sector in [512, 4096] {
        let size = sector.try_into().unwrap();
        let before = gpt_head(sector);
        let mut head = before.clone();
        assert_eq!(read(&head), None);
        place(&mut head, size, &sample()).unwrap();
        assert_eq!(head[..OFFSET], before[..OFFSET]);
        assert_eq!(head[OFFSET + LENGTH..], before[OFFSET + LENGTH..]);
        assert_eq!(read(&head), Some(sample()));
        let other = Mark { hour: 3, ..sample() };
        place(&mut head, size, &other).unwrap();
        assert_eq!(read(&head), Some(other));
        assert!(clear(&mut head));
        assert_eq!(head, before);
        assert!(!clear(&mut head));
    }
}

#[test]
fn it_is_not_placed_over_anything_of_anyone() {
    let refused = |head: &mut Vec<u8>| {
        let before = head.clone();
        let reason = place(head, SectorSize::B512, &sample()).unwrap_err();
        assert_eq!(*head, before);
        reason
    };
    let mut head = gpt_head(512);
    head[OFFSET + 1000] = 7;
    assert_eq!(refused(&mut head), Reason::NotZero(OFFSET + 1000));
    let mut head = vec![0; 1 << 20];
    // An MBR partition that starts at block 63, as they did until 2010.
    head[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 63, 0, 0, 0, 0, 0, 1, 0]);
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(refused(&mut head), Reason::InPartition(1));
    head[454..458].copy_from_slice(&[0, 8, 0, 0]);
    assert_eq!(place(&mut head, SectorSize::B512, &sample()), Ok(()));
    let mut head = gpt_head(512);
    head[512 + 40] ^= 1;
    assert!(matches!(refused(&mut head), Reason::BadTable(_)));
    assert_eq!(refused(&mut vec![0; 4096]), Reason::ShortHead);
}

#[test]
fn garbage_is_no_mark() {
    let block = sample().encode();
    for at in [0, 30, 37] {
        let mut damaged = block;
        damaged[at] ^= 0x55;
        assert_eq!(Mark::decode(&damaged), None, "{at}");
    }
    assert_eq!(Mark::decode(&block[..1000]), None);
    assert_eq!(Mark::decode(&[0xff; LENGTH]), None);
    let text = String::from_utf8(block.to_vec()).unwrap();
    for (from, to) in [("hour=14", "hour=24"), ("2026-3-1\n", "2026-3-0\n"), ("mark=1", "mark=2")] {
        assert_eq!(Mark::decode(text.replace(from, to).as_bytes()), None, "{to}");
    }
}
