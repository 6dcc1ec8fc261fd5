"""Word lists and name generator of the little world, English and Chinese."""

from __future__ import annotations

import random
import zlib

ONSETS = "b d f g h j k l m n p r s t v w z br dr fl kr pl st tr".split()
VOWELS = "a e i o u".split()
CODAS = ["", "", "n", "l", "r", "s", "m", "x"]
ZH_SOUNDS = list(
    "阿巴贝波布达德迪多杜法菲弗加戈格哈赫霍卡科克库拉莱里洛鲁马梅米莫纳内尼诺帕佩普奇瑞萨塞斯索塔泰特托瓦维沃西夏雅伊尤泽佐"
)
ZH_SURNAMES = list("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭罗梁宋郑谢韩唐冯于董萧程")
ZH_GIVEN = list(
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰凤洁梅琳素云莲真雪荣爱妹瑞凡佳嘉琼勤珍贞"
)

EN_CATEGORIES = (
    "lamp kettle drill tent chair desk radio clock heater fan camera printer bicycle helmet"
    " backpack jacket blanket mirror shelf cabinet toaster mixer oven pump ladder saw hammer"
    " lantern stove cooler scale speaker keyboard monitor router charger battery sofa bench carpet"
    " vase pillow bottle mug knife pan basket canoe paddle compass"
).split()
ZH_CATEGORIES = (
    "台灯 水壶 电钻 帐篷 椅子 书桌 收音机 时钟 暖炉 风扇 相机 打印机 自行车 头盔 背包 夹克 "
    "毛毯 镜子 书架 柜子 面包机 搅拌机 烤箱 水泵 梯子 锯子 锤子 灯笼 炉子 冷藏箱 电子秤 音箱 "
    "键盘 显示器 路由器 充电器 电池 沙发 长凳 地毯 花瓶 枕头 水瓶 杯子 菜刀 平底锅 篮子 独木舟"
    " 船桨 指南针"
).split()
EN_SITES = (
    "store depot workshop warehouse office showroom library hotel cafe clinic museum station"
).split()
ZH_SITES = "商店 仓库 车间 货栈 办公室 展厅 图书馆 酒店 咖啡馆 诊所 博物馆 车站".split()
EN_COLOURS = (
    "red blue green black white grey yellow orange purple brown silver golden pink turquoise"
).split()
ZH_COLOURS = "红色 蓝色 绿色 黑色 白色 灰色 黄色 橙色 紫色 棕色 银色 金色 粉色 青色".split()
EN_MATERIALS = (
    "oak steel glass copper wool cotton leather bamboo ceramic plastic aluminium linen rubber stone"
).split()
ZH_MATERIALS = "橡木 钢 玻璃 铜 羊毛 棉布 皮革 竹子 陶瓷 塑料 铝 亚麻 橡胶 石头".split()
EN_ROLES = (
    "accountant, buyer, designer, driver, editor, engineer, gardener, head of sales, lawyer,"
    " librarian, mechanic, nurse, planner, receptionist, safety officer, trainer"
).split(", ")
ZH_ROLES = (
    "会计 采购员 设计师 司机 编辑 工程师 园丁 销售主管 律师 图书管理员 技工 护士 计划员 接待员"
    " 安全员 培训师".split()
)
EN_LANGUAGES = (
    "English Chinese French German Spanish Italian Polish Turkish Arabic Korean Japanese Dutch"
).split()
ZH_LANGUAGES = (
    "英语 汉语 法语 德语 西班牙语 意大利语 波兰语 土耳其语 阿拉伯语 韩语 日语 荷兰语".split()
)
EN_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ZH_DAYS = "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()
EN_RULES = (
    "a refund, a repair, home delivery, a gift card, a price match, an exchange, a tool loan, a"
    " product recall, sick leave, a business trip, overtime, parental leave, a training course,"
    " remote work, a parking permit, a key card, a visitor pass, a supplier invoice, a bulk order,"
    " a warranty claim, a lost parcel, a data request"
).split(", ")
ZH_RULES = (
    "退款 维修 送货上门 礼品卡 差价补偿 换货 工具借用 产品召回 病假 出差 加班 育儿假 培训课程"
    " 远程办公 停车证 "
    "门卡 访客证 供应商发票 批量订单 保修申请 包裹丢失 数据申请"
).split()


def is_held_out(text: str) -> bool:
    """Tell whether a name or value is in the eighth that training never sees.

    By CRC-32, so the split is the same on every machine.
    """
    return zlib.crc32(text.encode("utf-8")) % 8 == 0


def pick(rng: random.Random, make, held_out: bool | None) -> str:
    """Draw from `make(rng)` until the text is on the wanted side of the split (`None`: either)."""
    while True:
        text = make(rng)
        if held_out is None or is_held_out(text) == held_out:
            return text


def _en_word(rng: random.Random) -> str:
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(2)]
    if rng.random() < 0.25:
        parts.insert(1, rng.choice(ONSETS) + rng.choice(VOWELS))
    return "".join(parts).capitalize()


def word(rng: random.Random, language: str, held_out: bool | None) -> str:
    """Draw an invented name of one word: `Corvel`, `科尔维`."""
    if language == "en":
        return pick(rng, _en_word, held_out)
    return pick(rng, lambda r: "".join(r.choices(ZH_SOUNDS, k=r.choice((2, 3, 3)))), held_out)


def person(rng: random.Random, language: str, held_out: bool | None) -> str:
    """Draw an invented personal name: `Mira Tolen`, `林雪梅`."""
    if language == "en":
        return word(rng, "en", held_out) + " " + word(rng, "en", held_out)
    make = lambda r: r.choice(ZH_SURNAMES) + "".join(r.choices(ZH_GIVEN, k=r.choice((1, 2, 2))))
    return pick(rng, make, held_out)
