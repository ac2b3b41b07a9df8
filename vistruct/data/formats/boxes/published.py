"""The class lists of published data sets, in the order in which their published detectors number them.

A data set's own files do not tell the order, and one split may lack a class that another has. When a list is taken:
see `order.class_order`.

Source: the class tuples of MMRotate and MMDetection (DOTA, DIOR-R, HRSC2016), of ViTP (RSAR, DIOR) and MTP (FAIR1M);
    the label ids of SAMRS.
"""

from __future__ import annotations

DOTA_1_0 = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool",
    "helicopter",
)  # fmt: skip
DOTA_1_5 = (*DOTA_1_0, "container-crane")
DOTA_2_0 = (*DOTA_1_5, "airport", "helipad")
RSAR = ("ship", "aircraft", "car", "tank", "bridge", "harbor")

# The two orders differ in the place of "dam", so a detector of one numbers three classes unlike the other.
DIOR = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "dam", "expressway-service-area",
    "expressway-toll-station", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium", "storagetank",
    "tenniscourt", "trainstation", "vehicle", "windmill",
)  # fmt: skip
DIOR_R = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "expressway-service-area",
    "expressway-toll-station", "dam", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium",
    "storagetank", "tenniscourt", "trainstation", "vehicle", "windmill",
)  # fmt: skip

# The same 37 in version 1 and 2. "other-..." has a hyphen, the others have spaces.
FAIR1M = (
    "A220", "A321", "A330", "A350", "ARJ21", "Baseball Field", "Basketball Court", "Boeing737", "Boeing747",
    "Boeing777", "Boeing787", "Bridge", "Bus", "C919", "Cargo Truck", "Dry Cargo Ship", "Dump Truck",
    "Engineering Ship", "Excavator", "Fishing Boat", "Football Field", "Intersection", "Liquid Cargo Ship",
    "Motorboat", "other-airplane", "other-ship", "other-vehicle", "Passenger Ship", "Roundabout", "Small Car",
    "Tennis Court", "Tractor", "Trailer", "Truck Tractor", "Tugboat", "Van", "Warship",
)  # fmt: skip

# SAMRS: in the order of the label ids in its label maps and instances. SOTA has DOTA-2.0's classes in an order of its
# own, FAST has FAIR1M's with hyphens.
SOTA = (
    "large-vehicle", "swimming-pool", "helicopter", "bridge", "plane", "ship", "soccer-ball-field", "basketball-court",
    "ground-track-field", "small-vehicle", "baseball-diamond", "tennis-court", "roundabout", "storage-tank", "harbor",
    "container-crane", "airport", "helipad",
)  # fmt: skip
SIOR = DIOR_R
FAST = tuple(name.replace(" ", "-") for name in FAIR1M)

# By the last two digits of HRSC2016's Class_ID, 100000001 to 100000033; 21 and 23 are not used.
HRSC = {
    1: "ship", 2: "aircraft carrier", 3: "warcraft", 4: "merchant ship", 5: "Nimitz", 6: "Enterprise",
    7: "Arleigh Burke", 8: "WhidbeyIsland", 9: "Perry", 10: "Sanantonio", 11: "Ticonderoga", 12: "Kitty Hawk",
    13: "Kuznetsov", 14: "Abukuma", 15: "Austen", 16: "Tarawa", 17: "Blue Ridge", 18: "Container", 19: "OXo|--)",
    20: "Car carrier([]==[])", 22: "Hovercraft", 24: "yacht", 25: "CntShip(_|.--.--|_]=", 26: "Cruise",
    27: "submarine", 28: "lute", 29: "Medical", 30: "Car carrier(======|", 31: "Ford-class", 32: "Midway-class",
    33: "Invincible-class",
}  # fmt: skip
