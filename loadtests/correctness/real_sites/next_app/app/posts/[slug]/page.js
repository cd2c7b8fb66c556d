import { readFile } from "node:fs/promises";
import { draftMode } from "next/headers";

export const revalidate = 60;

export function generateStaticParams() {
  return Array.from({ length: 40 }, (_, number) => ({ slug: `post-${number}` }));
}

export default async function Post({ params }) {
  const { slug } = await params;
  const { isEnabled } = await draftMode();
  const news = await readFile(`${process.env.NEWS_FOLDER}/${slug}`, "utf8").catch(() => "");
  return (
    <main>
      <h1>{`Title of ${slug}`}</h1>
      <p>{isEnabled ? "The draft of an editor" : "Page of everybody"}</p>
      <p>{news}</p>
    </main>
  );
}
