"""Forbidden attributes by name: what is refused, and what only looks like it."""

from __future__ import annotations

import pytest

from models.catalogue import EVENTS_1
from models.facts import FACTS
from models.forbidden import categories, forbidden, forbidden_among
from party_client.source_settings import OPTIONAL_EVENT_COLUMNS, REQUIRED_EVENT_COLUMNS

HITS = {
    "health": (
        "health healthStatus HEALTH_SCORE userhealth is_pregnant pregnancy-week hasDiabetes "
        "cancer_flag bmi blood_type bloodType medical_history prescriptions disability "
        "pharmacy_spend mental_health health_insurance aids hiv1 icd10 allergies maternity_ward "
        "jiankang huai_yun 健康 健康状况 客户健康状况 病史 是否怀孕 孕妇 糖尿病 高血压 药品消费 "
        "医疗支出 医院 残疾人 过敏史 体重 血型 保健品 健康_score 心理咨询 生理期 ＨＥＡＬＴＨ "
        "醫療 殘疾 懷孕"
    ),
    "religion": (
        "religion religiousBelief userreligion church_donation muslim is_christian halal "
        "kosher_food zongjiao zong_jiao faith 宗教 宗教信仰 信仰 清真食品 基督徒 佛教 "
        "做礼拜的教徒 聖經 是否信教 信佛 宗敎"
    ),
    "political opinion": (
        "political_opinion politicalParty party_member party_membership politics voter_id "
        "voting_intention dangyuan zhengzhimianmao 政治面貌 党员 是否党员 黨員 入党时间 团员"
    ),
    "ethnicity": (
        "race Race customer_race ethnicity ethnicGroup skin_colour minority minzu national_origin "
        "民族 种族 種族 少数民族 族裔 肤色 维吾尔 回族"
    ),
    "sexual life": (
        "sexual_orientation sexualOrientation sex_life sexLife homosexual lesbian lgbt "
        "contraceptives condoms adult_toys 性取向 客户性取向 性生活 同性恋 避孕 成人用品 "
        "高危性行为 情趣用品"
    ),
    "union membership": (
        "union union_member unionMembership unionmember trade_union labour_union union_dues "
        "gonghui 工会 工会会员 工會"
    ),
    "precise location": (
        "gps latitude home_lat lat_lng longitude lon geohash home_address homeAddress street "
        "addresses precise_location live_location cell_id 经度 纬度 经纬度 經緯度 定位 家庭住址 "
        "收货地址 行踪 坐标"
    ),
    "data of minors": (
        "minor is_minor minors children number_of_children child_age kids underage teenager "
        "under_18 baby_age 未成年 未成年人 儿童 兒童 儿童年龄 子女数量 青少年 宝宝生日 小学生 "
        "学生年龄"
    ),
    "genetics": ("genetic_risk genome dna dna_test gene 基因 基因检测 遗传病史_家族"),
    "biometrics": (
        "biometric_id fingerprint faceId face_id facial_recognition voiceprint iris_scan 指纹 "
        "人脸 人臉 虹膜 声纹"
    ),
}
# First-listed category wins where a name says two.
TWO = {"遗传病史_家族": "health"}

PASSES = (
    "unionpay union_pay credit_union western_union european_union reunion communion_wine race_day "
    "race_condition raceCar trace brace embrace grace third_party party party_size party_supplies "
    "email_address emailAddress ip_address address_book sex gender 性别 男性 女性 女性向 性价比 "
    "个性化 理性生活 周期性行为 一次性行为 可变性 healthcheck health_check account_health "
    "service_health 账户健康度 民族风 民族乐器 品牌定位 device_fingerprint key_fingerprint "
    "child_category childNode children_books kids_shoes 儿童玩具 儿童图书 母婴 玩具 minor_units "
    "infant_formula baby_products platform flat late_night latest along longest salon melon "
    "lonely generic gender_neutral general genesis agenda technical intersection essex sussex "
    "middlesex curate drugstore_brand hospitality patience store_location 员工会员 本月经营额 "
    "返回教程 多少年 新冠军 故障诊断 面部护理 facial_tissue retina_display streetwear street_food "
    "christian_dior orientation activity coordinator"
)


@pytest.mark.parametrize(
    ("category", "name"),
    [(category, name) for category, names in HITS.items() for name in names.split()],
)
def test_a_forbidden_name_is_found(category: str, name: str) -> None:
    assert forbidden(name) == TWO.get(name, category)


@pytest.mark.parametrize("name", PASSES.split())
def test_a_name_that_only_looks_forbidden_passes(name: str) -> None:
    assert forbidden(name) is None


def test_every_category_has_hits() -> None:
    assert set(categories()) == set(HITS)


def test_our_own_columns_and_facts_pass() -> None:
    own = [column.name for column in EVENTS_1]
    own += [*FACTS, *REQUIRED_EVENT_COLUMNS, *OPTIONAL_EVENT_COLUMNS]
    assert forbidden_among(own) == {}


def test_a_name_between_separators_of_any_kind_is_found() -> None:
    for name in ("blood_type", "blood-type", "blood type", "bloodType", "BloodType", "客户_血 型"):
        assert forbidden(name) == "health", name


def test_names_are_found_among_others() -> None:
    assert forbidden_among(["amount", "religion", "渠道", "指纹"]) == {
        "religion": "religion",
        "指纹": "biometrics",
    }


def test_meaning_is_not_seen() -> None:
    assert forbidden("x7") is None  # whatever it holds: only the name is looked at


def test_an_odd_name_is_no_error() -> None:
    for name in ("", "   ", "_", "\x00", "123", "🙂", "a" * 10_000):
        assert forbidden(name) is None
