import { writeFile } from "node:fs/promises";
import { revalidatePath } from "next/cache";

export async function POST(request) {
  const { slug, news } = await request.json();
  await writeFile(`${process.env.NEWS_FOLDER}/${slug}`, news);
  revalidatePath(`/posts/${slug}`);
  return new Response("published");
}
